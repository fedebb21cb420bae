"""The part of a checkpoint's config.json that the graph depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memrerank_export.errors import CheckpointError

DECODERS = (
    "Qwen3ForCausalLM",
    "Qwen3ForSequenceClassification",
    "Qwen2ForCausalLM",
    "Qwen2ForSequenceClassification",
)
ENCODERS = (
    "BertForSequenceClassification",
    "XLMRobertaForSequenceClassification",
    "ModernBertForSequenceClassification",
)
SUPPORTED = (*DECODERS, *ENCODERS)
PRECISIONS = ("fp32", "fp16", "int8", "int4")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a Qwen2 or Qwen3 decoder; fields are named as in config.json.

    Qwen3 norms every head of queries and keys (`query_key_norm`); Qwen2 adds a bias to queries, keys and values
    instead (`query_key_value_bias`).
    """

    architecture: str
    query_key_norm: bool
    query_key_value_bias: bool
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @property
    def is_classifier(self) -> bool:
        """Whether the checkpoint has a one-label head in place of a language model's."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """Read config.json, in the layout of transformers 4 or 5; refuse what the graph does not cover."""
    architecture = read_architecture(config)
    _refuse_unsupported(config)
    sizes = {name: positive_int(config, name) for name in _SIZES}
    sizes["head_dim"] = (
        positive_int(config, "head_dim")
        if config.get("head_dim") is not None
        else sizes["hidden_size"] // sizes["num_attention_heads"]
    )
    if sizes["head_dim"] % 2:
        raise CheckpointError(
            f"head_dim is {sizes['head_dim']}; an even number was expected, as RoPE turns pairs of channels."
        )
    if sizes["num_attention_heads"] % sizes["num_key_value_heads"]:
        raise CheckpointError(
            f"config.json has {sizes['num_attention_heads']} attention heads for "
            f"{sizes['num_key_value_heads']} key-value heads; the first must be a multiple of the second."
        )
    return DecoderConfig(
        architecture=architecture,
        query_key_norm=architecture.startswith("Qwen3"),
        query_key_value_bias=architecture.startswith("Qwen2"),
        rms_norm_eps=positive_float(config, "rms_norm_eps"),
        rope_theta=_rope_theta(config),
        tie_word_embeddings=config.get("tie_word_embeddings") is not False,
        **sizes,
    )


_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def read_architecture(config: Mapping[str, Any]) -> str:
    """The architecture that config.json names; CheckpointError when no reranker can be made of it."""
    if "auto_map" in config:
        raise CheckpointError(
            "config.json has an auto_map: this checkpoint needs code of its own, and memrerank never runs "
            f"remote code. Supported architectures are {', '.join(SUPPORTED)}."
        )
    architectures = config.get("architectures") or []
    if len(architectures) != 1 or architectures[0] not in SUPPORTED:
        raise CheckpointError(
            f"config.json names the architectures {architectures}; supported are {', '.join(SUPPORTED)}."
        )
    if config.get("quantization_config") is not None:
        raise CheckpointError(
            "config.json has a quantization_config: the weights are quantized already. "
            "Export from the original checkpoint in bf16, fp16 or fp32."
        )
    if architectures[0].endswith("ForSequenceClassification") and _label_count(config) != 1:
        raise CheckpointError(
            f"This classifier has {_label_count(config)} labels; a reranker with exactly one was expected."
        )
    return str(architectures[0])


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    if config.get("attention_bias"):
        raise CheckpointError("config.json sets attention_bias; a Qwen3 reranker without biases was expected.")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise CheckpointError("config.json asks for sliding windows; only full attention is supported.")
    if config.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config.json has hidden_act {config['hidden_act']!r}; 'silu' was expected.")


def _label_count(config: Mapping[str, Any]) -> int:
    labels = config.get("id2label")
    return len(labels) if labels else int(config.get("num_labels", 2))


def _rope_theta(config: Mapping[str, Any]) -> float:
    """`rope_theta` beside a null `rope_scaling` (transformers 4), or inside `rope_parameters` (5)."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise CheckpointError(
            f"config.json has rope_scaling or rope_parameters {parameters!r}; an object was expected."
        )
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"config.json asks for RoPE of type {kind!r}; only 'default' is supported.")
    if "rope_theta" in parameters:
        return positive_float(parameters, "rope_theta")
    return positive_float(config, "rope_theta")


def positive_int(config: Mapping[str, Any], name: str) -> int:
    """The whole number above 0 under `name`."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json has {name} = {value!r}; a positive whole number was expected.")
    return value


def positive_float(config: Mapping[str, Any], name: str) -> float:
    """The number above 0 under `name`."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise CheckpointError(f"config.json has {name} = {value!r}; a positive number was expected.")
    return float(value)
