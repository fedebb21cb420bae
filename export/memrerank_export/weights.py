"""The weights of a reranker as named tensors that are read in blocks of rows: what is streamed into an artifact.

A transformation of the weights (folding a norm into the next linear, rotating the residual stream) is a
function from `Weights` to `Weights`, applied between `read_weights` and the storing of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memrerank_export.checkpoint import Tensors, read_json
from memrerank_export.config import DecoderConfig
from memrerank_export.errors import CheckpointError

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """A float32 tensor with a known shape; `rows(start, stop)` reads a part of its first axis and keeps nothing."""

    shape: tuple[int, ...]
    rows: Callable[[int, int], Array]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    def read(self) -> Array:
        """The whole tensor."""
        return self.rows(0, self.shape[0])


Weights = Mapping[str, Weight]
"""Tensors under the checkpoint's own keys and in its layout, and the head as one vector `score.weight` [hidden]."""


@dataclass(frozen=True)
class ScoreTokens:
    """Ids of the words that make the score: logit(true) - logit(false), or logit(true) where `false` is None."""

    true: int
    false: int | None


def read_weights(tensors: Tensors, config: DecoderConfig, tokens: ScoreTokens) -> dict[str, Weight]:
    """Every tensor the graph needs, with its shape checked against config.json."""
    weights = {name: checked_weight(tensors, name, shape) for name, shape in weight_shapes(config).items()}
    weights["score.weight"] = _score_weight(tensors, config, tokens)
    return weights


def weight_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The shape that config.json gives to every tensor of the model, without its head."""
    hidden, inner = config.hidden_size, config.intermediate_size
    outputs = {"q": config.query_size, "k": config.key_value_size, "v": config.key_value_size}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes |= {f"{layer}.self_attn.{x}_proj.weight": (size, hidden) for x, size in outputs.items()}
        if config.query_key_value_bias:
            shapes |= {f"{layer}.self_attn.{x}_proj.bias": (size,) for x, size in outputs.items()}
        if config.query_key_norm:
            shapes |= {f"{layer}.self_attn.{x}_norm.weight": (config.head_dim,) for x in "qk"}
        shapes |= {
            f"{layer}.self_attn.o_proj.weight": (hidden, config.query_size),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def declared_score_tokens(folder: Path) -> ScoreTokens | None:
    """The ids in the checkpoint's LogitScore module (sentence-transformers), when it has one."""
    declared = _logit_score_config(folder)
    if declared is None:
        return None
    true, false = declared.get("true_token_id"), declared.get("false_token_id")
    if not isinstance(true, int) or not isinstance(false, int | None) or isinstance(true, bool):
        raise CheckpointError(
            f"The checkpoint's LogitScore module holds {json.dumps(declared)}; an integer id in true_token_id, and "
            "one or null in false_token_id, were expected."
        )
    if true == false:
        raise CheckpointError(f"The checkpoint's LogitScore module compares token {true} with itself.")
    return ScoreTokens(true, false)


def _logit_score_config(folder: Path) -> dict[str, object] | None:
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path, list)
    for module in modules:
        if isinstance(module, dict) and str(module.get("type", "")).rpartition(".")[2] == "LogitScore":
            return read_json(folder / str(module.get("path", "")) / "config.json", dict)
    return None


def checked_weight(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Weight:
    """The tensor `name`; CheckpointError when the checkpoint lacks it or has another shape."""
    _check_shape(tensors, name, shape)
    return Weight(shape, lambda start, stop: tensors.read_rows(name, start, stop))


def _check_shape(tensors: Tensors, name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors.shapes:
        raise CheckpointError(
            f"Tensor {name} is in none of {', '.join(tensors.files)}; the checkpoint is incomplete "
            "or its config.json belongs to another model."
        )
    if tensors.shapes[name] != shape:
        raise CheckpointError(
            f"Tensor {name} has the shape {list(tensors.shapes[name])}; config.json implies {list(shape)}."
        )


def _score_weight(tensors: Tensors, config: DecoderConfig, tokens: ScoreTokens) -> Weight:
    """The head as a vector: a one-label classifier's row, or W[true] - W[false] of the language model head."""
    hidden = config.hidden_size
    if config.is_classifier:
        _check_shape(tensors, "score.weight", (1, hidden))
        return _vector(hidden, lambda: tensors.read_rows("score.weight", 0, 1)[0])
    head = "lm_head.weight"
    if head not in tensors.shapes and config.tie_word_embeddings:
        head = "model.embed_tokens.weight"
    _check_shape(tensors, head, (config.vocab_size, hidden))
    true, false = tokens.true, tokens.false
    outside = [token for token in (true, false) if token is not None and not 0 <= token < config.vocab_size]
    if outside:
        raise CheckpointError(f"The score token {outside[0]} lies outside the vocabulary of {config.vocab_size}.")

    def row(token: int) -> Array:
        return tensors.read_rows(head, token, token + 1).reshape(hidden)

    return _vector(hidden, lambda: row(true) if false is None else row(true) - row(false))


def _vector(size: int, read: Callable[[], Array]) -> Weight:
    return Weight((size,), lambda start, stop: read()[start:stop])
