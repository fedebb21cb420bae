"""A checkpoint of random weights in a published shape, for measurements where only the size matters."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

CONFIG_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151669,
}


CONFIG_4B = CONFIG_06B | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
}

BLOCK_NUMBERS = 1 << 23
"""Numbers that are in memory at a time."""


def write_random_checkpoint(
    folder: Path, config: dict[str, Any], tokenizer: Path, *, separate_head: bool = False, seed: int = 0
) -> Path:
    """Write a bf16 checkpoint of `config`'s shape to `folder`, a few rows of a tensor in memory at a time.

    `separate_head` adds an `lm_head.weight`, which MemReranker-4B has although its config says that it is tied.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    shapes = _shapes(config)
    if separate_head:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    random = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(_header(shapes))
        for name, shape in shapes.items():
            step = max(1, BLOCK_NUMBERS // shape[-1])
            for start in range(0, shape[0], step):
                rows = min(step, shape[0] - start)
                file.write(_values(random, name, (rows, *shape[1:])).tobytes())
    return folder


def _shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner, size = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * size, c["num_key_value_heads"] * size
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.q_norm": (size,),
        "self_attn.k_norm": (size,),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (hidden,)}


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if name.endswith("norm.weight"):
        return random.uniform(0.5, 1.5, shape).astype(ml_dtypes.bfloat16)
    return (random.standard_normal(shape, np.float32) * np.float32(0.03)).astype(ml_dtypes.bfloat16)


def _header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The safetensors header: the length of a JSON object, and the object with each tensor's place."""
    entries, start = {}, 0
    for name, shape in shapes.items():
        end = start + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
