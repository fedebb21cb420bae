"""Quantization as one pass over the float graph, by a plan that names a form for every weight matrix.

int8 linear: activations per token, weights per output channel, integer arithmetic in between. A token's numbers
depend on that token alone, so a score never depends on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from memrerank_export.forms import BLOCK, FORMS, LEVELS, SMALLEST_SCALE, Form, Part
from memrerank_export.graph import MICROSOFT, Ops

ZERO_POINT = 128
INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy level for 8-bit activations, quantized in the blocks of the weights."""


@dataclass(frozen=True)
class Planned:
    """A weight matrix [rows, columns], whether it is a linear layer's (or holds embeddings), and its form."""

    shape: tuple[int, int]
    is_linear: bool
    form_name: str

    @property
    def form(self) -> Form:
        """How numbers become bytes."""
        return FORMS[self.form_name]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors that store the matrix."""
        return self.form.parts(self.shape, transposed=self.is_linear)


Plan = Mapping[str, Planned]
"""Every weight matrix by its name."""


CUDA_FORMS = {"int8": "int8-block"}
"""Where a linear layer on a GPU has another form than the precision's own: no kernel there takes 8-bit activations."""


def plan_for(model: ir.Model, precision: str, device: str = "cpu") -> Plan:
    """Every matrix in the form of `precision`; embeddings, whose rows enter as they are, never in less than 8 bits."""
    plan = {}
    for node, weight in _matrices(model):
        is_linear = node.op_type == "MatMul"
        first, second = (int(size) for size in weight.shape.numpy()) if weight.shape else (0, 0)
        form = "int8" if precision == "int4" and not is_linear else precision
        if device == "cuda" and is_linear:
            form = CUDA_FORMS.get(form, form)
        plan[str(weight.name)] = Planned((second, first) if is_linear else (first, second), is_linear, form)
    return plan


def quantize(model: ir.Model, plan: Plan, device: str = "cpu") -> None:
    """Give every matrix of `model` the nodes and initializers of its form, in place; the values come with storing."""
    ops = CudaFormOps(Ops()) if device == "cuda" else FormOps(Ops())
    for node, weight in list(_matrices(model)):
        ops.replace(model.graph, node, weight, plan[str(weight.name)])
    for initializer in ops.ops.initializers:
        model.graph.initializers.add(initializer)


def _matrices(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    """The weight matrices of linear layers and embeddings, each with the node that uses it."""
    for node in model.graph:
        position = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        weight = None if position is None else node.inputs[position]
        if weight is not None and weight.is_initializer():
            yield node, weight


@dataclass(frozen=True)
class Tokens8Bit:
    """Activations as uint8 `levels` around the zero point, and the `largest` magnitude of each token."""

    levels: ir.Value
    largest: ir.Value


Layer = Callable[[ir.Value, Planned, list[ir.Value]], ir.Value]
"""From a layer's input, its matrix and the tensors that store it to its output."""


class FormOps:
    """The nodes of every form, with the constants and the quantized inputs that layers share."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.quantized: dict[ir.Value, Tokens8Bit] = {}
        self.constants: dict[str, ir.Value] = {}
        self.layers: Mapping[tuple[str, bool], Layer] = {
            ("fp16", True): self.fp16_linear,
            ("fp16", False): self.fp16_embedding,
            ("int8", True): self.int8_linear,
            ("int8", False): self.int8_embedding,
            ("int4", True): self.int4_linear,
        }

    def replace(self, graph: ir.Graph, node: ir.Node, weight: ir.Value, planned: Planned) -> None:
        """Put the nodes of the planned form in the place of `node`."""
        if planned.form_name == "fp32":
            return
        before = len(self.ops.nodes)
        stored = [self.ops.weight(f"{weight.name}{part.suffix}", part.shape, part.dtype) for part in planned.parts]
        x = node.inputs[0 if planned.is_linear else 1]
        assert x is not None, f"{node.op_type} of {weight.name} lacks its input"
        output = self.layers[planned.form_name, planned.is_linear](x, planned, stored)
        nodes = self.ops.nodes[before:]
        del graph.initializers[str(weight.name)]
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, [output])

    def fp16_linear(self, x: ir.Value, _: Planned, stored: list[ir.Value]) -> ir.Value:
        """x W, computed in float32: ONNX Runtime makes the cast once, when it loads the graph."""
        return self.ops("MatMul", x, self.as_float(stored[0]))

    def fp16_embedding(self, ids: ir.Value, _: Planned, stored: list[ir.Value]) -> ir.Value:
        """Rows of a table in 16 bits."""
        return self.as_float(self.ops("Gather", stored[0], ids))

    def int8_linear(self, x: ir.Value, _: Planned, stored: list[ir.Value]) -> ir.Value:
        """x W, with W [in, out] in 8 bits and one scale per output channel."""
        tokens = self.tokens(x)
        levels, scale = stored
        y = self.ops("MatMulIntegerToFloat", tokens.levels, levels, self.step, scale, self.zero_point, domain=MICROSOFT)
        return self.ops("Mul", y, tokens.largest)

    def int8_embedding(self, ids: ir.Value, _: Planned, stored: list[ir.Value]) -> ir.Value:
        """Rows of a table [rows, hidden] in 8 bits, one scale per row."""
        levels, scale = stored
        return self.ops("Mul", self.as_float(self.ops("Gather", levels, ids)), self.ops("Gather", scale, ids))

    def int4_linear(self, x: ir.Value, planned: Planned, stored: list[ir.Value]) -> ir.Value:
        """x W, with W [out, in] in 4 bits and one scale per output channel and block of the input."""
        levels, scale = stored
        rows, columns = planned.shape
        return self.ops(
            "MatMulNBits", x, levels, self.as_float(scale), domain=MICROSOFT,
            N=rows, K=columns, bits=4, block_size=BLOCK, accuracy_level=INT8_ACTIVATIONS,
        )  # fmt: skip

    def tokens(self, x: ir.Value) -> Tokens8Bit:
        """x in 8 bits, quantized once for all the layers that read it."""
        if x not in self.quantized:
            self.quantized[x] = self.quantize_tokens(x)
        return self.quantized[x]

    def quantize_tokens(self, x: ir.Value) -> Tokens8Bit:
        """Scale each token of x [batch, tokens, channels] by its largest magnitude and round to 8 bits."""
        last_axis = self.constant("int8.last_axis", np.array([-1], np.int64))
        largest = self.ops("ReduceMax", self.ops("Abs", x), last_axis, keepdims=1)
        largest = self.ops("Max", largest, self.constant("int8.smallest", SMALLEST_SCALE))
        scaled = self.ops("Mul", x, self.ops("Reciprocal", largest))  # faster than dividing every number
        return Tokens8Bit(self.ops("QuantizeLinear", scaled, self.step, self.zero_point), largest)

    def as_float(self, x: ir.Value) -> ir.Value:
        """x as float32."""
        return self.ops("Cast", x, to=ir.DataType.FLOAT)

    @property
    def step(self) -> ir.Value:
        """The step of activations that are scaled to -1..1."""
        return self.constant("int8.step", np.float32(1 / LEVELS))

    @property
    def zero_point(self) -> ir.Value:
        """The level of 0 in activations."""
        return self.constant("int8.zero_point", np.uint8(ZERO_POINT))

    def constant(self, name: str, value: np.generic | np.ndarray) -> ir.Value:
        """A constant that layers share."""
        if name not in self.constants:
            self.constants[name] = self.ops.constant(name, value)
        return self.constants[name]


class CudaFormOps(FormOps):
    """The nodes where activations have 16 bits already: weights of fewer bits become 16 bits inside MatMulNBits."""

    def __init__(self, ops: Ops) -> None:
        super().__init__(ops)
        self.layers = {
            ("fp16", True): lambda x, _, stored: self.ops("MatMul", x, stored[0]),
            ("fp16", False): self.fp16_embedding,
            ("int8", False): self.int8_embedding,
            ("int8-block", True): lambda x, planned, stored: self.blocks_linear(x, planned, stored, bits=8),
            ("int4", True): lambda x, planned, stored: self.blocks_linear(x, planned, stored, bits=4),
        }

    def blocks_linear(self, x: ir.Value, planned: Planned, stored: list[ir.Value], *, bits: int) -> ir.Value:
        """x W, with W [out, in] in levels around the middle and one scale per output channel and block of the input."""
        rows, columns = planned.shape
        attributes = {"N": rows, "K": columns, "bits": bits, "block_size": BLOCK}
        return self.ops("MatMulNBits", x, *stored, domain=MICROSOFT, **attributes)
