"""Tiny random checkpoints in the layouts that Qwen3 rerankers are published in."""

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


def make_checkpoint(
    folder: Path,
    *,
    architecture: Literal["Qwen3ForCausalLM", "Qwen3ForSequenceClassification"] = "Qwen3ForCausalLM",
    layers: int = 3,
    hidden: int = 64,
    intermediate: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    vocab: int = 151_669,
    tied: bool = True,
    config_layout: Literal[4, 5] = 4,
    shard_size: str | None = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    logit_score: tuple[int, int] | None = None,
    separate_lm_head: bool = False,
    max_positions: int = 2048,
    seed: int = 0,
) -> Path:
    """Write a checkpoint with random weights and the real tokenizer to `folder`.

    `config_layout` is the major version of transformers whose config.json is imitated, `shard_size` splits the
    weights (e.g. "100KB"), `logit_score` adds the (true, false) token ids as sentence-transformers packages them.
    `separate_lm_head` stores a head of its own under a config that says it is tied, as MemReranker-4B does.
    """
    config = {
        "architectures": [architecture],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": max_positions,
        "max_window_layers": layers,
        "model_type": "qwen3",
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
    if architecture == "Qwen3ForSequenceClassification":
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": PAD}
    model = _random_model(architecture, config | {"tie_word_embeddings": tied and not separate_lm_head}, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_size or "5GB")
    _write_json(folder / "config.json", config if config_layout == 4 else _in_layout_5(config))
    (folder / "tokenizer.json").write_bytes(tokenizer_json_bytes())
    if logit_score:
        _write_logit_score(folder, *logit_score)
    return folder


@cache
def tokenizer_json_bytes() -> bytes:
    """The Qwen3 tokenizer.json."""
    return lzma.decompress((DATA / "qwen3_tokenizer.json.xz").read_bytes())


def _random_model(architecture: str, config: dict[str, Any], seed: int) -> transformers.PreTrainedModel:
    """A model that is far from the usual initialization: uneven norms and attention, logits that vary by units."""
    model = getattr(transformers, architecture)(transformers.Qwen3Config.from_dict(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2:
                parameter.copy_(noise.mul_(2 / parameter.shape[1] ** 0.5))
            else:
                parameter.copy_((1 + 0.3 * noise) * (1.5 if "q_norm" in name or "k_norm" in name else 1))
    return model


def _in_layout_5(config: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers 5 writes it."""
    renamed = {"dtype": config["torch_dtype"], "layer_types": ["full_attention"] * config["num_hidden_layers"]}
    rope = {"rope_parameters": {"rope_theta": config["rope_theta"], "rope_type": "default"}}
    kept = {key: value for key, value in config.items() if key not in ("torch_dtype", "rope_theta", "rope_scaling")}
    return {"pad_token_id": None} | kept | renamed | rope | {"transformers_version": "5.0.0"}


def _write_logit_score(folder: Path, true_id: int, false_id: int) -> None:
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
