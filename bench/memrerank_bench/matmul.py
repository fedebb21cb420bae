"""The machine's own rate of ONNX Runtime's matmul: what a graph of nothing else could reach."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from memrerank.session import integer_matmul_saturates, session_options
from memrerank.threads import available_cpus
from memrerank_export.graph import MICROSOFT, Ops, as_model, graph_input, graph_output

ROWS, INNER, COLUMNS = 384, 1024, 6144
"""Large enough for the kernels to be at their best, with weights that stay in the cache."""

REPETITIONS, SECONDS = 100, 1.0
BLOCK = 32

Array = npt.NDArray[np.generic]


def matmul_rate(precision: str, threads: int | None = None) -> float:
    """Billions of operations (2 per multiply-add) a second of the matmul that artifacts of a precision have on CPUs.

    int8 and int4 compute in 8-bit integers, fp16 and fp32 in float32. It is the best of up to REPETITIONS runs.
    """
    build = {"int8": _int8, "int4": _int4}.get(precision, _float)
    ops, random = Ops(), np.random.default_rng(0)
    x, y, feed = build(ops, random)
    model = as_model(ops, [x], [graph_output("y", y, ir.DataType.FLOAT, [ROWS, COLUMNS])])
    options = session_options(threads or available_cpus())
    if integer_matmul_saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2 * ROWS * INNER * COLUMNS / _best_seconds(lambda: session.run(None, {"x": feed})) / 1e9


def _int8(ops: Ops, random: np.random.Generator) -> tuple[ir.Value, ir.Value, Array]:
    """uint8 activations by int8 weights with a scale per column, as artifacts have them."""
    x = graph_input("x", ir.DataType.UINT8, [ROWS, INNER])
    weight = ops.constant("weight", random.integers(-127, 128, (INNER, COLUMNS), np.int8))
    scale = ops.constant("scale", np.float32(1 / 127))
    scales = ops.constant("scales", np.ones(COLUMNS, np.float32))
    zero_point = ops.constant("zero_point", np.uint8(128))
    y = ops("MatMulIntegerToFloat", x, weight, scale, scales, zero_point, domain=MICROSOFT)
    return x, y, random.integers(0, 256, (ROWS, INNER), np.uint8)


def _int4(ops: Ops, random: np.random.Generator) -> tuple[ir.Value, ir.Value, Array]:
    """float32 activations, which the kernel quantizes, by weights in blocks of 32."""
    x = graph_input("x", ir.DataType.FLOAT, [ROWS, INNER])
    shape = (COLUMNS, INNER // BLOCK)
    levels = ops.constant("levels", random.integers(0, 256, (*shape, BLOCK // 2), np.uint8))
    scales = ops.constant("scales", np.ones(shape, np.float32))
    how = {"K": INNER, "N": COLUMNS, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    y = ops("MatMulNBits", x, levels, scales, domain=MICROSOFT, **how)
    return x, y, random.standard_normal((ROWS, INNER), np.float32)


def _float(ops: Ops, random: np.random.Generator) -> tuple[ir.Value, ir.Value, Array]:
    x = graph_input("x", ir.DataType.FLOAT, [ROWS, INNER])
    y = ops("MatMul", x, ops.constant("weight", random.standard_normal((INNER, COLUMNS), np.float32)))
    return x, y, random.standard_normal((ROWS, INNER), np.float32)


def _best_seconds(call: Callable[[], object]) -> float:
    best, begin = float("inf"), time.perf_counter()
    for i in range(REPETITIONS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if i > 1 and time.perf_counter() - begin > SECONDS:
            break
    return best


if __name__ == "__main__":
    precision, threads = sys.argv[1:]
    print(json.dumps({"gop_per_second": matmul_rate(precision, int(threads))}))
