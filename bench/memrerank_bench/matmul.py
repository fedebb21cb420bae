"""The machine's own rate of ONNX Runtime's int8 matmul: what a graph of nothing else could reach."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from memrerank.session import integer_matmul_saturates, session_options
from memrerank.threads import available_cpus
from memrerank_export.graph import MICROSOFT, Ops, as_model, graph_input, graph_output

REPETITIONS = 100


def int8_rate(rows: int, inner: int, columns: int) -> float:
    """Billions of operations (2 per multiply-add) a second of uint8 [rows, inner] by int8 [inner, columns]."""
    random = np.random.default_rng(0)
    ops = Ops()
    x = graph_input("x", ir.DataType.UINT8, [rows, inner])
    weight = ops.constant("weight", random.integers(-127, 128, (inner, columns), np.int8))
    scale = ops.constant("scale", np.float32(1 / 127))
    scales = ops.constant("scales", np.ones(columns, np.float32))
    zero_point = ops.constant("zero_point", np.uint8(128))
    y = ops("MatMulIntegerToFloat", x, weight, scale, scales, zero_point, domain=MICROSOFT)
    model = as_model(ops, [x], [graph_output("y", y, ir.DataType.FLOAT, [rows, columns])])
    options = session_options(available_cpus())
    if integer_matmul_saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return 2 * rows * inner * columns / _best_seconds(session, random.integers(0, 256, (rows, inner), np.uint8)) / 1e9


def _best_seconds(session: ort.InferenceSession, x: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    best = float("inf")
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        session.run(None, {"x": x})
        best = min(best, time.perf_counter() - start)
    return best
