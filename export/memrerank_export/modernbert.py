"""ModernBERT's attention and gates as single operators, which ONNX Runtime's optimizer does not know."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from memrerank_export.encoder_config import EncoderConfig, LocalAttention
from memrerank_export.graph import MICROSOFT, Ops, extend
from memrerank_export.rotary import RotaryTables, rotary_tables


@dataclass(frozen=True)
class Kind:
    """Global or local attention: its rotary tables, and what is added to the scores [1, 1, tokens, tokens]."""

    rope: RotaryTables
    bias: ir.Value | None


def fuse_attention(graph: ir.Graph, config: EncoderConfig, local: LocalAttention) -> None:
    """Replace what lies between the projections of each layer by Split, RotaryEmbedding and MultiHeadAttention."""
    ops = Ops()
    start = ops.constant("rotary.start", np.array([0], np.int64))
    tables = (config.head_dim, config.max_tokens)
    everywhere = Kind(rotary_tables(ops, "rotary.global", local.global_theta, *tables), None)
    nearby = Kind(rotary_tables(ops, "rotary.local", local.theta, *tables), window_bias(ops, graph.inputs[0], local))
    for layer, softmax in enumerate([node for node in graph if node.op_type == "Softmax"]):
        kind = nearby if layer % local.every else everywhere
        projected, attended = _ends(softmax)
        q, k, v = ops.multi("Split", 3, projected, axis=-1, num_outputs=3)
        q, k = (_rotate(ops, x, start, kind.rope, config.num_attention_heads) for x in (q, k))
        y = ops(
            "MultiHeadAttention", q, k, v, None, None, kind.bias, domain=MICROSOFT,
            num_heads=config.num_attention_heads,
        )  # fmt: skip
        attended.replace_all_uses_with(y)
    extend(graph, ops)


def fuse_gates(graph: ir.Graph) -> None:
    """Replace the two slices of each joined projection, activated and gate, by one Split."""
    ops = Ops()
    for gelu in [node for node in graph if node.op_type == "Gelu"]:
        activated = gelu.inputs[0]
        slices = activated.producer() if activated is not None else None
        if slices is None or slices.op_type != "Slice" or (joined := slices.inputs[0]) is None:
            continue
        [gate] = [use.node for use in joined.uses() if use.node.op_type == "Slice" and use.node is not slices]
        first, second = ops.multi("Split", 2, joined, axis=-1, num_outputs=2)
        slices.outputs[0].replace_all_uses_with(first)
        gate.outputs[0].replace_all_uses_with(second)
    extend(graph, ops)


def window_bias(ops: Ops, input_ids: ir.Value, local: LocalAttention) -> ir.Value:
    """0 where query and key are at most `local.reach` apart, else the lowest number: [1, 1, tokens, tokens]."""
    tokens = ops("Squeeze", ops("Shape", input_ids, start=1, end=2))
    zero, one = (ops.constant(f"window.{i}", np.int64(i)) for i in (0, 1))
    positions = ops("Range", zero, tokens, one)
    column = ops("Unsqueeze", positions, ops.constant("window.column", np.array([1], np.int64)))
    distance = ops("Abs", ops("Sub", positions, column))
    near = ops("LessOrEqual", distance, ops.constant("window.reach", np.int64(local.reach)))
    lowest = ops.constant("window.lowest", np.float32(np.finfo(np.float32).min))
    bias = ops("Where", near, ops.constant("window.none", np.float32(0)), lowest)
    return ops("Unsqueeze", bias, ops.constant("window.batch_and_heads", np.array([0, 1], np.int64)))


def _rotate(ops: Ops, x: ir.Value, start: ir.Value, rope: RotaryTables, heads: int) -> ir.Value:
    return ops("RotaryEmbedding", x, start, rope.cos, rope.sin, domain=MICROSOFT, num_heads=heads, interleaved=0)


def _ends(softmax: ir.Node) -> tuple[ir.Value, ir.Value]:
    """The joined projection that this attention reads, and its output, both [batch, tokens, ...]."""
    weighted = _only_user(softmax.outputs[0])
    values = weighted.inputs[1]
    assert values is not None, "attention without values"
    attended = weighted.outputs[0]
    while (node := _only_user(attended)).op_type in ("Transpose", "Reshape"):
        attended = node.outputs[0]
    return _source(values, ("Squeeze", "Split", "Transpose", "Reshape")), attended


def _source(value: ir.Value, through: Collection[str]) -> ir.Value:
    """What `value` is made of by operators that only arrange numbers."""
    while (node := value.producer()) is not None and node.op_type in through:
        first = node.inputs[0]
        assert first is not None, f"{node.op_type} without input"
        value = first
    return value


def _only_user(value: ir.Value) -> ir.Node:
    [use] = value.uses()
    return use.node
