"""Tiny random checkpoints in the layouts that Qwen3 and Qwen2 rerankers are published in."""

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

DATA = Path(__file__).parent / "data"
ROPE_THETA = 1_000_000
PAD = 151_643
REAL_VOCABULARY, SMALL_VOCABULARY = 151_669, 320

Architecture = Literal[
    "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"
]


def make_checkpoint(
    folder: Path,
    *,
    architecture: Architecture = "Qwen3ForCausalLM",
    layers: int = 3,
    hidden: int = 64,
    intermediate: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    vocab: int = REAL_VOCABULARY,
    tied: bool = True,
    config_layout: Literal[4, 5] = 4,
    shard_size: str | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    logit_score: tuple[int, int | None] | None = None,
    separate_lm_head: bool = False,
    max_positions: int = 2048,
    seed: int = 0,
) -> Path:
    """Write a checkpoint with random weights to `folder`, with the real tokenizer or, for fewer tokens, the small one.

    `config_layout` is the major version of transformers whose config.json is imitated, `shard_size` splits the
    weights (e.g. "100KB"), `logit_score` adds the (true, false) token ids as sentence-transformers packages them.
    `separate_lm_head` stores a head of its own under a config that says it is tied, as MemReranker-4B does.
    `head_dim` is for Qwen3: the heads of Qwen2 share `hidden` evenly.
    """
    qwen2, classifier = architecture.startswith("Qwen2"), architecture.endswith("ForSequenceClassification")
    config = {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": max_positions,
        "max_window_layers": layers,
        "model_type": "qwen2" if qwen2 else "qwen3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }
    if not qwen2:
        config |= {"attention_bias": False, "head_dim": head_dim}
    if classifier:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": min(PAD, vocab - 1)}
    model = _random_model(architecture, config | {"tie_word_embeddings": tied and not separate_lm_head}, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size or "5GB")
    _write_json(folder / "config.json", config if config_layout == 4 else _in_layout_5(config))
    if vocab < REAL_VOCABULARY:
        (folder / "tokenizer.json").write_bytes(small_tokenizer_json_bytes())
    else:
        (folder / "tokenizer.json").write_bytes(tokenizer_json_bytes())
    if logit_score:
        _write_logit_score(folder, *logit_score)
    return folder


@cache
def tokenizer_json_bytes() -> bytes:
    """The Qwen3 tokenizer.json."""
    return lzma.decompress((DATA / "qwen3_tokenizer.json.xz").read_bytes())


@cache
def small_tokenizer_json_bytes() -> bytes:
    """Qwen3's tokenizer.json cut down to bytes, the words of the score and the special tokens of the prompt."""
    content = json.loads(tokenizer_json_bytes())
    words = [*(word for word, id in content["model"]["vocab"].items() if id < 256), "ye", "yes", "no"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    content["model"] |= {
        "vocab": {word: id for id, word in enumerate(words)},
        "merges": [["y", "e"], ["ye", "s"], ["n", "o"]],
    }
    by_name = {token["content"]: token for token in content["added_tokens"]}
    content["added_tokens"] = [by_name[name] | {"id": len(words) + i} for i, name in enumerate(special)]
    return json.dumps(content).encode()


def _random_model(architecture: str, config: dict[str, Any], seed: int) -> transformers.PreTrainedModel:
    """A model that is far from the usual initialization: uneven norms and attention, logits that vary by units."""
    model = getattr(transformers, architecture)(transformers.AutoConfig.for_model(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise.mul_(2 / parameter.shape[1] ** 0.5))
            elif name.endswith(".bias"):
                parameter.copy_(noise)
            else:
                parameter.copy_((1 + 0.3 * noise) * (1.5 if "q_norm" in name or "k_norm" in name else 1))
    return model


def _in_layout_5(config: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers 5 writes it."""
    renamed = {"dtype": config["torch_dtype"], "layer_types": ["full_attention"] * config["num_hidden_layers"]}
    rope = {"rope_parameters": {"rope_theta": config["rope_theta"], "rope_type": "default"}}
    kept = {key: value for key, value in config.items() if key not in ("torch_dtype", "rope_theta", "rope_scaling")}
    return {"pad_token_id": None} | kept | renamed | rope | {"transformers_version": "5.0.0"}


def _write_logit_score(folder: Path, true_id: int, false_id: int | None) -> None:
    modules = {
        "": "sentence_transformers.base.modules.transformer.Transformer",
        "1_LogitScore": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
    }
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules.items())]
    (folder / "1_LogitScore").mkdir()
    _write_json(folder / "modules.json", listed)
    _write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": true_id, "false_token_id": false_id})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
