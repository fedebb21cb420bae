"""Quantization as one pass over the float graph, by a plan that names a form for every weight matrix.

int8 linear: activations per token, weights per output channel, integer arithmetic in between. A token's numbers
depend on that token alone, so a score never depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from memrerank.manifest import LayerRecord
from memrerank_export.graph import MICROSOFT, Ops

Float = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
Plan = Mapping[str, str]
"""The form, "fp32" or "int8", of every weight matrix by the name of its initializer."""

LEVELS = 127
ZERO_POINT = 128
SMALLEST_SCALE = np.float32(1e-30)


def matrices(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    """The weight matrices of linear layers and embeddings, each with the node that uses it."""
    for node in model.graph:
        position = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        weight = None if position is None else node.inputs[position]
        if weight is not None and weight.is_initializer():
            yield node, weight


def plan_for(model: ir.Model, precision: str) -> Plan:
    """Every matrix in the form of `precision`."""
    return {str(weight.name): precision for _, weight in matrices(model)}


def quantize(model: ir.Model, plan: Plan, on_matrix: Callable[[int, int], None]) -> dict[str, LayerRecord]:
    """Give every matrix of `model` the form that `plan` names, in place; what became of each is returned.

    Quantized values are computed again when they are written, so that only one matrix is in memory at a time.
    `on_matrix` is told how many of how many matrices are done.
    """
    shared = Int8Ops(Ops())
    records: dict[str, LayerRecord] = {}
    found = list(matrices(model))
    for done, (node, weight) in enumerate(found, start=1):
        name = str(weight.name)
        error = shared.replace(model.graph, node, weight) if plan[name] == "int8" else 0.0
        records[name] = LayerRecord(plan[name], _shape(weight), error)
        on_matrix(done, len(found))
    for initializer in shared.ops.initializers:
        model.graph.register_initializer(initializer)
    return records


@dataclass(frozen=True)
class Tokens8Bit:
    """Activations as uint8 `levels` around the zero point, and the `largest` magnitude of each token."""

    levels: ir.Value
    largest: ir.Value


class Int8Ops:
    """The nodes of int8 layers, with the constants and the quantized inputs that layers share."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.last_axis = ops.constant("int8.last_axis", np.array([-1], np.int64))
        self.step = ops.constant("int8.step", np.float32(1 / LEVELS))
        self.zero_point = ops.constant("int8.zero_point", np.uint8(ZERO_POINT))
        self.smallest = ops.constant("int8.smallest", SMALLEST_SCALE)
        self.quantized: dict[ir.Value, Tokens8Bit] = {}

    def replace(self, graph: ir.Graph, node: ir.Node, weight: ir.Value) -> float:
        """Put int8 nodes in the place of `node`; the relative error of the weight is returned."""
        before = len(self.ops.nodes)
        scales, error = measure(_read(weight), axis=1 if node.op_type == "Gather" else 0)
        layer = self.embedding if node.op_type == "Gather" else self.linear
        output = layer(node, weight, scales)
        nodes = self.ops.nodes[before:]
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, [output])
        del graph.initializers[str(weight.name)]
        return error

    def linear(self, node: ir.Node, weight: ir.Value, scales: Float) -> ir.Value:
        """x W, with W [in, out] in 8 bits and one scale per output channel."""
        x = self.tokens(_input(node, 0))
        levels, scale = self.stored(weight, scales)
        y = self.ops("MatMulIntegerToFloat", x.levels, levels, self.step, scale, self.zero_point, domain=MICROSOFT)
        return self.ops("Mul", y, x.largest)

    def embedding(self, node: ir.Node, weight: ir.Value, scales: Float) -> ir.Value:
        """Rows of a table [rows, hidden] in 8 bits, one scale per row."""
        ids = _input(node, 1)
        levels, scale = self.stored(weight, scales)
        rows = self.ops("Cast", self.ops("Gather", levels, ids), to=ir.DataType.FLOAT)
        return self.ops("Mul", rows, self.ops("Gather", scale, ids))

    def tokens(self, x: ir.Value) -> Tokens8Bit:
        """x in 8 bits, quantized once for all the layers that read it."""
        if x not in self.quantized:
            self.quantized[x] = self.quantize_tokens(x)
        return self.quantized[x]

    def quantize_tokens(self, x: ir.Value) -> Tokens8Bit:
        """Scale each token of x [batch, tokens, channels] by its largest magnitude and round to 8 bits."""
        largest = self.ops("ReduceMax", self.ops("Abs", x), self.last_axis, keepdims=1)
        largest = self.ops("Max", largest, self.smallest)
        scaled = self.ops("Mul", x, self.ops("Reciprocal", largest))  # faster than dividing every number
        return Tokens8Bit(self.ops("QuantizeLinear", scaled, self.step, self.zero_point), largest)

    def stored(self, weight: ir.Value, scales: Float) -> tuple[ir.Value, ir.Value]:
        """The initializers of a matrix: its int8 levels, computed when written, and its scales."""
        name = str(weight.name)
        levels = self.ops.lazy(
            f"{name}.levels", _shape(weight), ir.DataType.INT8, lambda: round_levels(_read(weight), scales)
        )
        flat = scales if scales.shape[1] == 1 else scales[0]
        return levels, self.ops.constant(f"{name}.scale", flat)


def measure(matrix: Float, axis: int) -> tuple[Float, float]:
    """The steps of symmetric 8-bit rounding along `axis`, and its relative error ||W - stored W|| / ||W||.

    A step is the largest magnitude of its slice by 127 levels.
    """
    scales = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True) / np.float32(LEVELS), SMALLEST_SCALE)
    difference = round_levels(matrix, scales) * scales
    difference -= matrix
    norm = float(np.linalg.norm(matrix))
    return scales, float(np.linalg.norm(difference)) / norm if norm else 0.0


def round_levels(matrix: Float, scales: Float) -> Int8:
    """The nearest multiples of the steps `scales`, as int8 in -127..127."""
    levels = matrix / scales
    np.rint(levels, out=levels)
    np.clip(levels, -LEVELS, LEVELS, out=levels)
    return levels.astype(np.int8)


def _shape(weight: ir.Value) -> tuple[int, ...]:
    return tuple(int(size) for size in weight.shape.numpy()) if weight.shape is not None else ()


def _read(weight: ir.Value) -> Float:
    assert weight.const_value is not None, f"{weight.name} is not an initializer"
    matrix: Float = weight.const_value.numpy()
    return matrix


def _input(node: ir.Node, position: int) -> ir.Value:
    value = node.inputs[position]
    assert value is not None, f"{node.op_type} lacks its input {position}"
    return value
