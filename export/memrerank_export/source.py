"""A checkpoint that has been read and found consistent: all that an artifact is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer

from memrerank.manifest import TOKENIZER, Limits
from memrerank.template import Template
from memrerank.tokenization import without_added_tokens
from memrerank_export.checkpoint import open_tensors, read_json
from memrerank_export.config import ENCODERS, parse_config, read_architecture
from memrerank_export.decoder import build_graph
from memrerank_export.decoder_cuda import build_cuda_graph
from memrerank_export.errors import CheckpointError
from memrerank_export.prompts import PromptFile, as_template, built_in_prompt
from memrerank_export.reference import Reference, own_reference, transformers_reference
from memrerank_export.weights import ScoreTokens, Weights, declared_score_tokens, read_weights, weight_shapes

MAX_TOKENS = 8192
"""The longest prompt of Qwen3-Reranker's and mxbai-rerank's published recipes."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint folder on this machine, the name it goes by, and the hub's revision where it came from there."""

    folder: Path
    name: str
    revision: str | None


@dataclass(frozen=True)
class Source:
    """What the exporter needs to know of a checkpoint, whatever its family.

    `tokenizer_json` is the tokenizer as the artifact has it. `score_tokens` is None where the score is a label's.
    `build_graph` and `build_cuda_graph`, which is told the precision, need config.json alone; `weights` opens the
    safetensors files and checks them. `reference` is the checkpoint run as it is, `own_reference` the graph of an fp32
    artifact of it, and `logit_scale` the size of its logits for states of unit variance.
    """

    origin: Origin
    family: str
    architecture: str
    template_name: str
    template: Template
    tokenizer_json: str
    score_tokens: ScoreTokens | None
    limits: Limits
    shapes: Mapping[str, tuple[int, ...]]
    weights: Callable[[], Weights]
    build_graph: Callable[[], ir.Model]
    build_cuda_graph: Callable[[str], ir.Model]
    reference: Callable[[Weights], Reference]
    own_reference: Callable[[Path], Reference]
    logit_scale: Callable[[Weights], float]

    def graph_for(self, precision: str, device: str) -> ir.Model:
        """The float graph of an artifact for `device`."""
        return self.build_cuda_graph(precision) if device == "cuda" else self.build_graph()


def read_source(origin: Origin, prompt: PromptFile | None, instruction: str | None) -> Source:
    """Read all of a checkpoint but its weights; CheckpointError or TemplateError says what is wrong with it.

    `prompt` takes the place of the template that the architecture is published with, `instruction` that of the
    template's own.
    """
    content = read_json(origin.folder / "config.json", dict)
    if read_architecture(content) in ENCODERS:
        from memrerank_export.encoder_source import read_encoder  # which makes a Source, too

        return read_encoder(origin, content, prompt, instruction)
    config = parse_config(content)
    tokenizer = read_tokenizer(origin.folder / TOKENIZER, config.vocab_size)
    chosen = prompt or built_in_prompt(config.architecture)
    declared = None if prompt else declared_score_tokens(origin.folder)
    tokens = declared or _score_tokens(chosen, tokenizer)
    limits = Limits(min(MAX_TOKENS, config.max_position_embeddings))
    return Source(
        origin=origin,
        family="decoder",
        architecture=config.architecture,
        template_name=chosen.name,
        template=as_template(chosen, tokenizer, instruction),
        tokenizer_json=without_added_tokens((origin.folder / TOKENIZER).read_text(encoding="utf-8")),
        score_tokens=tokens,
        limits=limits,
        shapes=weight_shapes(config) | {"score.weight": (config.hidden_size,)},
        weights=lambda: read_weights(open_tensors(origin.folder), config, tokens),
        build_graph=lambda: build_graph(config, limits.max_tokens),
        build_cuda_graph=lambda precision: build_cuda_graph(config, limits.max_tokens, precision),
        reference=lambda weights: transformers_reference(origin.folder, config, weights),
        own_reference=own_reference,
        logit_scale=lambda weights: float(
            np.linalg.norm(weights["score.weight"].read() * weights["model.norm.weight"].read())
        ),
    )


def _score_tokens(prompt: PromptFile, tokenizer: Tokenizer) -> ScoreTokens:
    true, false = prompt.score_words
    ids = [None if word is None else _word_id(word, prompt, tokenizer) for word in (true, false)]
    assert ids[0] is not None
    return ScoreTokens(ids[0], ids[1])


def _word_id(word: str, prompt: PromptFile, tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id(word)
    if found is None:
        raise CheckpointError(
            f"tokenizer.json has no token {word!r}, with which the template {prompt.name} makes the score. "
            "Use the tokenizer that belongs to the checkpoint."
        )
    return int(found)


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The checkpoint's own tokenizer, which may have as many tokens as config.json says."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; memrerank needs the checkpoint's tokenizer.json.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} is not a tokenizer.json that can be read ({error}).") from error
    if tokenizer.get_vocab_size() > vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.get_vocab_size()} tokens and config.json a vocabulary of "
            f"{vocab_size}; use the tokenizer that belongs to the checkpoint."
        )
    return tokenizer
