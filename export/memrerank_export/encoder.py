"""The encoder reranker as an ONNX graph: what optimum traced, without what a run of whole rows does not need.

It reads `input_ids` [batch, tokens] and, where the model knows types, `token_type_ids` of the same shape. All rows are
equally long and nothing is ever padded, so no mask is needed. It returns the `logit` [batch].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from memrerank_export.encoder_config import EncoderConfig
from memrerank_export.graph import MICROSOFT, Ops, extend, graph_output
from memrerank_export.modernbert import fuse_attention, fuse_gates
from memrerank_export.tracing import trace

EVERY_INPUT = None

PER_TOKEN: Mapping[str, tuple[int, ...] | None] = {
    "Add": EVERY_INPUT,
    "BiasGelu": (0,),
    "Gelu": (0,),
    "LayerNormalization": (0,),
    "MatMul": (0,),
    "Mul": EVERY_INPUT,
    "MultiHeadAttention": (0,),
    "RotaryEmbedding": (0,),
    "Split": (0,),
}
"""Operators whose first token needs only the first token of these inputs; of attention's, the queries."""


def build_graph(folder: Path, config: EncoderConfig) -> ir.Model:
    """The float32 graph of the reranker in `folder`; its weights get their values when the artifact is stored."""
    model = trace(folder)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    if config.local is not None:
        fuse_attention(model.graph, config, config.local)
        fuse_gates(model.graph)
    drop_masks(model.graph)
    model.graph.sort()
    passes.RemoveUnusedNodesPass()(model)
    first_token_only(model.graph)
    one_logit(model.graph)
    model.graph.sort()
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def drop_masks(graph: ir.Graph) -> None:
    """Every token counts: take the masks from attention, and let ones stand wherever else the mask is read."""
    for node in graph:
        if node.op_type == "MultiHeadAttention":
            node.replace_input_with(4, None)
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    ops = Ops()
    shape = ops("Shape", graph.inputs[0])
    mask.replace_all_uses_with(ops("ConstantOfShape", shape, value=ir.tensor(np.array([1], np.int64))))
    graph.inputs.remove(mask)
    extend(graph, ops)


def first_token_only(graph: ir.Graph) -> None:
    """Compute at the first token alone what nothing else reads: in the last layer, all but keys and values."""
    narrow = {node for node in graph if _takes_first_token(node)}
    for node in reversed(graph):
        if node.op_type in PER_TOKEN and all(
            use.node in narrow and use.idx in _per_token(use.node) for output in node.outputs for use in output.uses()
        ):
            narrow.add(node)
    first_index = ir.val("first_token", const_value=ir.tensor(np.array([0], np.int64)))
    first: dict[ir.Value, ir.Value] = {}
    for node in narrow:
        for position in () if node.op_type == "Gather" else _per_token(node):
            value = node.inputs[position]
            if value is None or value.is_initializer() or value.producer() in narrow:
                continue
            if value not in first:
                gather = ir.node("Gather", [value, first_index], {"axis": 1})
                graph.append(gather)
                first[value] = gather.outputs[0]
            node.replace_input_with(position, first[value])
    if first:
        graph.initializers.add(first_index)


def one_logit(graph: ir.Graph) -> None:
    """The only label as `logit` [batch]."""
    labels = graph.outputs[0]
    ops = Ops()
    logit = ops("Squeeze", labels, ops.constant("label_axis", np.array([1], np.int64)))
    graph.outputs[0] = graph_output("logit", logit, ir.DataType.FLOAT, ["batch"])
    extend(graph, ops)


def _takes_first_token(node: ir.Node) -> bool:
    """Whether `node` takes the first token of normed states [batch, tokens, hidden]."""
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
        return False
    states, index = node.inputs
    producer = None if states is None else states.producer()
    is_first = index is not None and index.const_value is not None and not index.const_value.numpy().any()
    return is_first and producer is not None and producer.op_type == "LayerNormalization"


def _per_token(node: ir.Node) -> tuple[int, ...]:
    """The inputs of which `node`'s first token needs only the first token."""
    if node.op_type == "MultiHeadAttention" and len(node.inputs) > 5 and node.inputs[5] is not None:
        return ()  # a bias for every query and key
    positions = PER_TOKEN.get(node.op_type, (0,))
    return tuple(range(len(node.inputs))) if positions is EVERY_INPUT else positions
