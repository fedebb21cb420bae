"""The part of an encoder's config.json that the exporter depends on; the rest is for transformers to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memrerank_export.config import positive_float, positive_int, read_architecture
from memrerank_export.errors import CheckpointError

MAX_TOKENS = 8192
"""The longest pair of bge-reranker-v2-m3's and gte-reranker-modernbert's published recipes."""

PADDING = {
    "BertForSequenceClassification": 0,
    "XLMRobertaForSequenceClassification": 1,
    "ModernBertForSequenceClassification": 50283,
}
"""The id of the padding token where config.json names none: transformers' defaults."""

MODERNBERT = {
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "local_rope_theta": 10_000.0,
    "global_rope_theta": 160_000.0,
}


@dataclass(frozen=True)
class LocalAttention:
    """ModernBERT's layers: all but every `every`-th see `reach` tokens to each side; each kind has its RoPE base."""

    every: int
    reach: int
    theta: float
    global_theta: float


@dataclass(frozen=True)
class EncoderConfig:
    """What the graph, the template and the limits of an encoder depend on."""

    architecture: str
    hidden_size: int
    num_attention_heads: int
    vocab_size: int
    padding: int
    max_tokens: int
    local: LocalAttention | None

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads


def parse_encoder_config(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> EncoderConfig:
    """Read config.json, and from tokenizer_config.json how long texts may be; refuse what the graph does not cover."""
    architecture = read_architecture(config)
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(
            f"config.json has position_embedding_type {config['position_embedding_type']!r}; 'absolute' was expected."
        )
    hidden_size, heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(f"config.json has a hidden_size of {hidden_size}, which {heads} heads cannot share.")
    padding = config.get("pad_token_id", PADDING[architecture])
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise CheckpointError(f"config.json has pad_token_id = {padding!r}; the id of the padding token was expected.")
    return EncoderConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        num_attention_heads=heads,
        vocab_size=positive_int(config, "vocab_size"),
        padding=padding,
        max_tokens=_max_tokens(architecture, config, tokenizer_config, padding),
        local=_local_attention(config) if architecture.startswith("ModernBert") else None,
    )


def _max_tokens(architecture: str, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], padding: int) -> int:
    positions = positive_int(config, "max_position_embeddings")
    if architecture.startswith("XLMRoberta"):
        positions -= padding + 1  # the first position is the one after the padding's
    declared = tokenizer_config.get("model_max_length")  # 1e30 where there is no limit
    return min(MAX_TOKENS, positions, declared if isinstance(declared, int) and declared > 0 else MAX_TOKENS)


def _local_attention(config: Mapping[str, Any]) -> LocalAttention:
    """The keys of config.json, or transformers' defaults; without a base of their own, local layers have the global."""
    given = {**MODERNBERT, **config}
    for kind, name in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        theta = ((config.get("rope_parameters") or {}).get(kind) or {}).get("rope_theta", given[name])
        if theta != given[name]:
            raise CheckpointError(
                f"config.json has a rope_theta of {theta!r} for {kind}, in the layout of transformers 5, which the "
                f"transformers 4 that reads it here takes for {given[name]!r}. Write it as {name}."
            )
    local_theta = "global_rope_theta" if given["local_rope_theta"] is None else "local_rope_theta"
    return LocalAttention(
        every=positive_int(given, "global_attn_every_n_layers"),
        reach=positive_int(given, "local_attention") // 2,
        theta=positive_float(given, local_theta),
        global_theta=positive_float(given, "global_rope_theta"),
    )
