"""ONNX Runtime on a GPU: whether it can run there, and why not, and sessions that keep tensors on the device."""

from __future__ import annotations

import ctypes
import re
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.resources import files
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime as ort

from memrerank.driver import Driver
from memrerank.errors import DeviceError
from memrerank.installation import PACKAGES, is_installed
from memrerank.session import Tensor, session_options

PROVIDER = "CUDAExecutionProvider"
LIBRARY = "libonnxruntime_providers_cuda.so"
CONFIG = {
    "session.record_ep_graph_assignment_info": "1",
    "ep.cuda.fpa_intb_gemm": "1",  # one kernel that dequantizes and multiplies
}
OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "enable_skip_layer_norm_strict_mode": "1",  # sums of squares in 32 bits
    "use_tf32": "0",
}
INSTALL = 'pip install "memrerank[gpu]"'

HEAVY = (
    "Attention",
    "Expand",
    "MatMul",
    "MatMulNBits",
    "Mul",
    "QuickGelu",
    "Reshape",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
)
"""Operators on states, which must all run on the GPU; others compute shapes, which ONNX Runtime leaves to the CPU."""


def require_cuda() -> Driver:
    """The driver, where ONNX Runtime can compute on a GPU; else DeviceError with the reason and the remedy."""
    if PROVIDER not in ort.get_available_providers():
        raise DeviceError(
            f"The ONNX Runtime installed here ({_package()} {ort.__version__}) is built without CUDA. Install the GPU "
            f"build in its place: pip uninstall {_package()}, then {INSTALL}."
        )
    driver = Driver()
    built_for = _cuda_version()
    found = driver.cuda_version()
    if built_for is not None and found[0] < built_for[0]:
        raise DeviceError(
            f"The NVIDIA driver runs CUDA up to {found[0]}.{found[1]}, and the ONNX Runtime installed here is built "
            f"for CUDA {built_for[0]}. Update the driver, or install a build of onnxruntime-gpu for CUDA {found[0]}."
        )
    if preload := getattr(ort, "preload_dlls", None):  # some builds leave that to the system
        with redirect_stdout(StringIO()):  # it prints what it does not find; the provider's own error says it better
            preload()
    _require_provider(built_for)
    return driver


def require_on_gpu(session: ort.InferenceSession) -> None:
    """Raise DeviceError where operators of weight were assigned to the CPU."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} does not tell which operators it runs on the GPU; 1.31 or newer does."
        )
    on_cpu = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
        if node.op_type in HEAVY
    )
    if on_cpu:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(on_cpu.items()))
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} has no CUDA kernel for some operators of this artifact ({listed}) and "
            "would run them on the CPU. Install ONNX Runtime 1.31 or newer, or export the artifact with --device cpu."
        )


def open_cuda_session(graph: Path, memory_limit: int) -> CudaSession:
    """A session of `graph` that takes at most `memory_limit` bytes of the GPU's memory, all of it on the GPU."""
    options = session_options(1)
    for key, value in CONFIG.items():
        options.add_session_config_entry(key, value)
    provider = OPTIONS | {"gpu_mem_limit": str(memory_limit)}
    try:
        session = ort.InferenceSession(str(graph), options, providers=[(PROVIDER, provider)], enable_fallback=0)
    except Exception as error:  # ONNX Runtime has no common error type
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} cannot open {graph} on the GPU: {_failure(error)}"
        ) from error
    if session.get_providers()[0] != PROVIDER:
        raise DeviceError(f"ONNX Runtime {ort.__version__} opened {graph} on the CPU instead of the GPU.")
    require_on_gpu(session)
    return CudaSession(session)


class CudaSession:
    """A session whose outputs that are keys and values stay on the device, to be inputs of later runs.

    One run at a time has the device: its memory is planned for one.
    """

    def __init__(self, session: ort.InferenceSession, device: str = "cuda") -> None:
        self._session = session
        self._device = device
        self._kept = {name for value in session.get_outputs() if (name := value.name).startswith("present_")}
        self._lock = threading.Lock()
        session.disable_fallback()  # which would repeat a run that failed on the CPU

    def get_inputs(self) -> Collection[ort.NodeArg]:
        """The inputs of the graph."""
        inputs: Collection[ort.NodeArg] = self._session.get_inputs()
        return inputs

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The named outputs of one run: keys and values on the device, others as arrays."""
        with self._lock:
            binding = self._session.io_binding()
            for name, value in feeds.items():
                if isinstance(value, ort.OrtValue):
                    binding.bind_ortvalue_input(name, value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name in outputs:
                binding.bind_output(name, self._device if name in self._kept else "cpu")
            self._session.run_with_iobinding(binding)
            found = zip(outputs, binding.get_outputs(), strict=True)
            return [value if name in self._kept else value.numpy() for name, value in found]


def _require_provider(built_for: tuple[int, int] | None) -> None:
    """Open a small session: a provider that does not load is left out of it without an error."""
    model = files("memrerank").joinpath("saturation.onnx").read_bytes()
    try:
        session = ort.InferenceSession(model, session_options(1), providers=[PROVIDER], enable_fallback=0)
    except Exception as error:  # ONNX Runtime has no common error type
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} finds the GPU and cannot use it: {_failure(error)}. Update the NVIDIA "
            "driver; a container or a Jetson needs libraries that go with its driver."
        ) from error
    if session.get_providers()[0] == PROVIDER:
        return
    missing = _missing_library()
    major = "" if built_for is None else f" {built_for[0]}"
    others = sorted({found for found in _installed_majors() if built_for is None or found != built_for[0]})
    if missing and others:
        raise DeviceError(
            f"The ONNX Runtime installed here needs the libraries of CUDA{major} ({missing}), and those of CUDA "
            f"{', '.join(map(str, others))} are installed. Install the others beside them with {INSTALL}, or a build "
            f"of onnxruntime-gpu for CUDA {others[-1]}."
        )
    raise DeviceError(
        f"ONNX Runtime's CUDA provider does not load ({missing or 'its log above says why'}). It needs the libraries "
        f"of CUDA{major} and cuDNN 9: {INSTALL} brings them."
    )


def _failure(error: Exception) -> str:
    """What CUDA says, without the names of ONNX Runtime's functions around it."""
    found = re.search(r"\w+ failure -?\d+: [^;]*", str(error))
    return " ".join((found[0] if found else str(error)).split())


def _missing_library() -> str | None:
    """What the loader says of the provider's library."""
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / LIBRARY))
    except OSError as error:
        return str(error)
    return None


def _installed_majors() -> list[int]:
    """The versions of CUDA whose libraries pip installed under names with a version, as up to CUDA 12."""
    return [major for major in (11, 12) if is_installed(f"nvidia-cublas-cu{major}")]


def _cuda_version() -> tuple[int, int] | None:
    """The CUDA that ONNX Runtime was built for, where it tells."""
    found = re.match(r"(\d+)\.(\d+)", getattr(ort, "cuda_version", None) or "")
    return None if found is None else (int(found[1]), int(found[2]))


def _package() -> str:
    return next((name for name in PACKAGES if is_installed(name)), "onnxruntime")
