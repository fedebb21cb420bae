"""Opening a graph with ONNX Runtime on a device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from memrerank.errors import ArtifactError, ScoringError

Tensor: TypeAlias = npt.NDArray[Any] | ort.OrtValue
"""A tensor in the computer's memory, or one on a device."""


def open_session(graph: Path, *, weights_in_file: bool = False) -> ort.InferenceSession:
    """A CPU session of `graph` whose runs each take the thread that calls them: documents are scored side by side.

    With `weights_in_file`, matrices are read (and cast) from their file in every run instead of being packed in memory
    once: slow, and little memory is needed. That is for float matrices; the 4-bit kernel computes on packed ones.
    """
    options = session_options(1)
    if weights_in_file:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else casts are made at load
    if integer_matmul_saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common error type
        raise ArtifactError(f"ONNX Runtime {ort.__version__} cannot open {graph}: {error}") from error


class Session(Protocol):
    """A graph on a device: an InferenceSession on the CPU, or what does the same elsewhere."""

    def get_inputs(self) -> Collection[ort.NodeArg]:
        """The inputs of the graph."""

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The named outputs of one run."""


def run(session: Session, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
    """The named outputs of one run; ScoringError when ONNX Runtime cannot do it."""
    try:
        found = session.run(outputs, feeds)
    except Exception as error:  # ONNX Runtime has no common error type
        raise ScoringError(f"ONNX Runtime {ort.__version__} could not run the model: {error}") from error
    return found


def session_options(threads: int) -> ort.SessionOptions:
    """Options for runs of `threads` threads that need little memory.

    No memory plan is kept per shape of input, and nodes run in the graph's own order, in which values are used up
    soon; the default order leaves those that outputs are made of to the end.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3
    return options


def integer_matmul_saturates() -> bool:
    """Whether this CPU's kernel for uint8 by int8 matrices overflows its 16-bit sums.

    That is so on x86 without VNNI. `session.x64quantprecision` avoids it there, but halves the speed where the
    sums are right anyway, so the kernel is tried on a small product whose every pair of terms would overflow.
    """
    model = files("memrerank").joinpath("saturation.onnx").read_bytes()
    session = ort.InferenceSession(model, session_options(1), providers=["CPUExecutionProvider"])
    x = np.full((4, 32), 255, np.uint8)
    return not np.array_equal(session.run(None, {"x": x})[0], np.full((4, 16), 255 * 127 * 32, np.float32))
