"""Rotary position embedding: the tables that ONNX Runtime's RotaryEmbedding reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from memrerank_export.graph import Ops


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines of RoPE, each [max_tokens, head_dim / 2]."""

    cos: ir.Value
    sin: ir.Value


def rotary_tables(ops: Ops, name: str, theta: float, head_dim: int, max_tokens: int) -> RotaryTables:
    """RoPE (Su et al. 2021): angle of position p and pair j is p * theta ** (-2 j / head_dim).

    Angles are float32 products, as in transformers; the rest is rounded from float64, so that every CPU gets the
    same tables.
    """
    half = np.arange(0, head_dim, 2) / head_dim
    frequency = np.power(theta, -half).astype(np.float32)
    angle = (np.arange(max_tokens, dtype=np.float32)[:, None] * frequency[None, :]).astype(np.float64)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return RotaryTables(ops.constant(f"{name}.cos", cos), ops.constant(f"{name}.sin", sin))
