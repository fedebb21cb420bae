"""Building blocks for ONNX graphs: values flow through calls such as `ops("MatMul", x, weight)`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

MICROSOFT = "com.microsoft"
OPSETS = {"": 23, MICROSOFT: 1}
IR_VERSION = 11

Attribute = int | float | str | Sequence[int] | ir.DataType | ir.TensorProtocol
Shape = Sequence[int | str]
Array = npt.NDArray[np.generic] | np.generic


class Ops:
    """Collects nodes and initializers in the order in which they are made."""

    def __init__(self) -> None:
        self._tape = Tape()
        self._weights: list[ir.Value] = []

    def __call__(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Add a node and return its only output."""
        return self._tape.op(op_type, inputs, attributes, domain=domain)

    def multi(
        self, op_type: str, outputs: int, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Add a node and return all its outputs."""
        return self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=outputs, domain=domain)

    def constant(self, name: str, array: Array) -> ir.Value:
        """An initializer with its value: small tensors."""
        return self._tape.initializer(ir.tensor(array, name=name))

    def weight(self, name: str, shape: Sequence[int], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """An initializer that has a name and a shape and gets its value when the artifact is stored."""
        value = ir.val(name, dtype=dtype, shape=ir.Shape(shape))
        self._weights.append(value)
        return value

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """The nodes so far."""
        return self._tape.nodes

    @property
    def initializers(self) -> Sequence[ir.Value]:
        """The initializers so far."""
        return [*self._tape.initializers, *self._weights]


def extend(graph: ir.Graph, ops: Ops) -> None:
    """Add to `graph` the nodes and initializers that `ops` has collected."""
    graph.extend(ops.nodes)
    for initializer in ops.initializers:
        graph.initializers.add(initializer)


def graph_input(name: str, dtype: ir.DataType, shape: Shape) -> ir.Value:
    """A graph input; dimensions with a name are free."""
    return ir.val(name, dtype=dtype, shape=ir.Shape(shape))


def graph_output(name: str, value: ir.Value, dtype: ir.DataType, shape: Shape) -> ir.Value:
    """`value` under the public name of a graph output."""
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    return value


def as_model(ops: Ops, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """The model that `ops` has built."""
    graph = ir.Graph(
        inputs, outputs, nodes=ops.nodes, initializers=ops.initializers, opset_imports=dict(OPSETS), name="memrerank"
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="memrerank")
