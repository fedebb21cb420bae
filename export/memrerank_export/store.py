"""From a checkpoint's weights to the artifact's weight file, with a few blocks of rows in float32 at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from memrerank.manifest import LayerRecord
from memrerank.threads import available_cpus
from memrerank_export.errors import ExportError
from memrerank_export.forms import Array, Float, Part
from memrerank_export.quantize import Plan, Planned
from memrerank_export.weights import Weight, Weights

BLOCK_NUMBERS = 2 << 20
"""Numbers of a matrix that a thread encodes at a time."""

THREADS = 4
"""Most threads that encode: each needs memory for its block."""

ALIGNMENT = 4096
"""Every tensor begins at a page of the file, which is mapped into memory."""


def store(
    model: ir.Model, weights: Weights, plan: Plan, path: Path, on_numbers: Callable[[int], None]
) -> dict[str, LayerRecord]:
    """Write every weight to the file `path` and point the graph's initializers at it; what became of each matrix.

    `on_numbers` is told of how many more numbers have been stored. The bytes depend on the weights and the plan alone.
    """
    records: dict[str, LayerRecord] = {}
    with path.open("wb") as file, ThreadPoolExecutor(min(THREADS, available_cpus())) as pool:
        for name, weight in weights.items():
            if planned := plan.get(name):
                arrays, error = encode(name, weight, planned, pool)
                records[name] = LayerRecord(planned.form_name, planned.shape, error)
                stored = [f"{name}{part.suffix}" for part in planned.parts]
            else:
                arrays, stored = [weight.read()], [name]
            for stored_name, array in zip(stored, arrays, strict=True):
                initializer = model.graph.initializers[stored_name]
                initializer.const_value = _append(file, stored_name, array, path.name)
            on_numbers(weight.size)
        os.fsync(file.fileno())
    return records


def encode(name: str, weight: Weight, planned: Planned, pool: ThreadPoolExecutor) -> tuple[list[Array], float]:
    """The stored tensors of a matrix, and its relative error ||W - stored W|| / ||W||."""
    rows, columns = planned.shape
    arrays = [np.empty(part.shape, part.dtype.numpy()) for part in planned.parts]
    step = max(1, BLOCK_NUMBERS // columns)

    def encode_block(start: int) -> tuple[float, float]:
        stop = min(start + step, rows)
        block = weight.rows(start, stop)
        encoded = planned.form.encode(block)
        for array, part, values in zip(arrays, planned.parts, encoded, strict=True):
            _place(array, part, start, stop, values)
        return _squares(planned.form.decode(*encoded)[:, :columns] - block), _squares(block)

    try:
        squares = list(pool.map(encode_block, range(0, rows, step)))
    except OverflowError as error:
        raise ExportError(f"{name} cannot be stored as {planned.form_name}: {error}. Export with fp32.") from error
    lost, total = np.sum(squares, axis=0)
    return arrays, float(f"{np.sqrt(lost / total):.4g}") if total else 0.0


def stored_size(shapes: Mapping[str, tuple[int, ...]], plan: Plan) -> int:
    """Bytes of the file that `store` writes for weights of these shapes."""
    end = 0
    for name, shape in shapes.items():
        sizes = [part.size for part in plan[name].parts] if name in plan else [4 * prod(shape)]
        for size in sizes:
            end = _aligned(end) + size
    return end


def _place(array: Array, part: Part, start: int, stop: int, values: Array) -> None:
    if part.rows_axis == 1:
        array[:, start:stop] = values.T
    else:
        array[start:stop] = values.reshape(stop - start, *part.shape[1:])


def _squares(block: Float) -> float:
    return float(np.square(block, dtype=np.float64).sum())


def _append(file: BinaryIO, name: str, array: Array, location: str) -> ir.ExternalTensor:
    offset = _aligned(file.tell())
    file.seek(offset)
    file.write(array.data.cast("B"))
    return ir.ExternalTensor(
        location, offset, array.nbytes, ir.DataType.from_numpy(array.dtype), shape=ir.Shape(array.shape), name=name
    )


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
