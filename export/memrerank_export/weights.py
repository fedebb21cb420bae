"""The weights of a reranker as named, lazily read tensors: what the graph is built from.

A transformation of the weights (folding a norm into the next linear, rotating the residual stream) is a
function from `Weights` to `Weights`, applied between `read_weights` and the building of the graph.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memrerank_export.checkpoint import Checkpoint, read_json
from memrerank_export.config import SEQUENCE_CLASSIFICATION, Qwen3Config
from memrerank_export.errors import CheckpointError

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """A float32 tensor with a known shape, read each time it is asked for and never kept."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


Weights = Mapping[str, Weight]
"""Tensors under the checkpoint's own keys, and the head as one vector `score.weight` [hidden]."""


@dataclass(frozen=True)
class ScoreTokens:
    """Ids of the words whose logits are compared: score = logit(true) - logit(false)."""

    true: int
    false: int


def read_weights(checkpoint: Checkpoint, config: Qwen3Config, tokens: ScoreTokens) -> dict[str, Weight]:
    """Every tensor the graph needs, with its shape checked against config.json."""
    weights = {name: _weight(checkpoint, name, shape) for name, shape in _expected_shapes(config).items()}
    weights["score.weight"] = _score_weight(checkpoint, config, tokens)
    return weights


def find_score_tokens(checkpoint: Checkpoint, token_id: Callable[[str], int | None]) -> ScoreTokens:
    """The ids in the checkpoint's LogitScore module when it has one, else those of "yes" and "no"."""
    declared = _logit_score_config(checkpoint)
    if declared is not None:
        true, false = declared.get("true_token_id"), declared.get("false_token_id")
        if not isinstance(true, int) or not isinstance(false, int):
            raise CheckpointError(
                f"The checkpoint's LogitScore module holds {json.dumps(declared)}; integer ids in "
                "true_token_id and false_token_id were expected."
            )
        if true == false:
            raise CheckpointError(f"The checkpoint's LogitScore module compares token {true} with itself.")
        return ScoreTokens(true, false)
    true, false = token_id("yes"), token_id("no")
    if true is None or false is None:
        unknown = "yes" if true is None else "no"
        raise CheckpointError(
            f"tokenizer.json has no token {unknown!r}; the score compares the tokens 'yes' and 'no'. "
            "Use the tokenizer that belongs to the checkpoint."
        )
    return ScoreTokens(true, false)


def _logit_score_config(checkpoint: Checkpoint) -> dict[str, object] | None:
    path = checkpoint.folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path, list)
    for module in modules:
        if isinstance(module, dict) and str(module.get("type", "")).rpartition(".")[2] == "LogitScore":
            return read_json(checkpoint.folder / str(module.get("path", "")) / "config.json", dict)
    return None


def _expected_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (config.query_size, hidden),
            f"{layer}.self_attn.k_proj.weight": (config.key_value_size, hidden),
            f"{layer}.self_attn.v_proj.weight": (config.key_value_size, hidden),
            f"{layer}.self_attn.q_norm.weight": (config.head_dim,),
            f"{layer}.self_attn.k_norm.weight": (config.head_dim,),
            f"{layer}.self_attn.o_proj.weight": (hidden, config.query_size),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def _weight(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Weight:
    _check_shape(checkpoint, name, shape)
    return Weight(shape, lambda: checkpoint.read(name))


def _check_shape(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> None:
    if name not in checkpoint:
        raise CheckpointError(
            f"Tensor {name} is in none of {', '.join(checkpoint.files)}; the checkpoint is incomplete "
            "or its config.json belongs to another model."
        )
    if checkpoint.shapes[name] != shape:
        raise CheckpointError(
            f"Tensor {name} has the shape {list(checkpoint.shapes[name])}; config.json implies {list(shape)}."
        )


def _score_weight(checkpoint: Checkpoint, config: Qwen3Config, tokens: ScoreTokens) -> Weight:
    """The head as a vector: a one-label classifier's row, or W[true] - W[false] of the language model head."""
    hidden = (config.hidden_size,)
    if config.architecture == SEQUENCE_CLASSIFICATION:
        _check_shape(checkpoint, "score.weight", (1, *hidden))
        return Weight(hidden, lambda: checkpoint.read("score.weight")[0])
    head = "lm_head.weight"
    if head not in checkpoint and checkpoint.config.get("tie_word_embeddings") is not False:
        head = "model.embed_tokens.weight"
    _check_shape(checkpoint, head, (config.vocab_size, *hidden))
    if not 0 <= min(tokens.true, tokens.false) <= max(tokens.true, tokens.false) < config.vocab_size:
        raise CheckpointError(
            f"The score tokens {tokens.true} and {tokens.false} lie outside the vocabulary of {config.vocab_size}."
        )
    return Weight(hidden, lambda: checkpoint.read_row(head, tokens.true) - checkpoint.read_row(head, tokens.false))
