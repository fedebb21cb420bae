"""Why ONNX Runtime cannot use a GPU, against what its GPU build was seen to do on machines without one."""

import ctypes
import json
import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from memrerank import DeviceError, InstallationError, Reranker
from memrerank.cuda import PROVIDER, open_cuda_session, require_cuda, require_on_gpu
from memrerank.device import choose_device
from memrerank.driver import LIBRARY, Driver
from memrerank.installation import require_one_onnxruntime

RECORDED = json.loads((Path(__file__).parent / "data" / "onnxruntime_gpu.json").read_text(encoding="utf-8"))
FREE = 7 << 30
CONTEXT = 1234


class DriverLibrary:
    """The driver API as its documentation has it; `codes` are the results of functions that fail."""

    def __init__(self, version: int = 13_000, **codes: int) -> None:
        self.version, self.codes, self.contexts = version, codes, 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *arguments: self.codes.get(name) or getattr(self, f"_{name}")(*arguments)

    def _cuInit(self, flags: ctypes.c_uint) -> int:  # noqa: N802
        assert flags.value == 0
        return 0

    def _cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0

    def _cuDeviceGet(self, device: Any, ordinal: ctypes.c_int) -> int:  # noqa: N802
        device._obj.value = ordinal.value
        return 0

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: ctypes.c_int) -> int:  # noqa: N802
        assert device.value == 0
        context._obj.value, self.contexts = CONTEXT, self.contexts + 1
        return 0

    def _cuDevicePrimaryCtxRelease_v2(self, device: ctypes.c_int) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def _cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:  # noqa: N802
        assert context.value == CONTEXT
        return 0

    def _cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        return 0

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = FREE, 2 * FREE
        return 0

    def _cuGetErrorString(self, code: ctypes.c_int, text: Any) -> int:  # noqa: N802
        text._obj.value = f"what error {code.value} means".encode()
        return 0


class Machine:
    """A machine with ONNX Runtime's GPU build, as it was recorded, on which more and more is in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver: DriverLibrary | None = None
        self.packages = {"onnxruntime-gpu"}
        self.session: Callable[[], Any] = lambda: SimpleNamespace(
            get_providers=lambda: RECORDED["providers_of_a_cuda_session_without_libraries"]
        )
        self.asked: list[Any] = []
        monkeypatch.setattr(ort, "get_available_providers", lambda: RECORDED["available_providers"])
        monkeypatch.setattr(ort, "cuda_version", RECORDED["cuda_version"], raising=False)
        monkeypatch.setattr(ort, "preload_dlls", lambda: print(RECORDED["preload_prints_without_cuda_libraries"]))
        monkeypatch.setattr(ort, "InferenceSession", self._open)
        monkeypatch.setattr(ctypes, "CDLL", self._load)
        monkeypatch.setattr("memrerank.installation.version", self._version)

    def _open(self, model: object, options: object, *, providers: Sequence[Any], enable_fallback: int) -> Any:
        assert enable_fallback == 0  # else the session is opened on the CPU where CUDA fails
        self.asked.append(providers)
        return self.session()

    def _load(self, name: str) -> Any:
        if name == LIBRARY and self.driver is not None:
            return self.driver
        which = "driver_library_error" if name == LIBRARY else "provider_library_error_without_cuda_libraries"
        raise OSError(RECORDED[which])

    def _version(self, package: str) -> str:
        if package not in self.packages:
            raise PackageNotFoundError(package)
        return RECORDED["version"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def reason() -> str:
    with pytest.raises(DeviceError) as caught:
        require_cuda()
    return str(caught.value)


def test_the_cpu_build_is_to_be_replaced_by_the_gpu_build() -> None:
    if PROVIDER in ort.get_available_providers():
        pytest.skip("ONNX Runtime's GPU build is installed here")
    assert "(onnxruntime " in reason()
    assert 'pip uninstall onnxruntime, then pip install "memrerank[gpu]"' in reason()


def test_without_a_driver_the_driver_is_named(machine: Machine) -> None:
    assert "No NVIDIA driver was found" in reason()
    assert RECORDED["driver_library_error"] in reason()
    assert not machine.asked


@pytest.mark.parametrize("visible", [None, "", "7"])
def test_a_driver_that_finds_no_gpu(machine: Machine, visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver = DriverLibrary(cuInit=100)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "finds no GPU" in reason()
    assert ("CUDA_VISIBLE_DEVICES" in reason()) == (visible is not None)


def test_a_driver_that_fails_is_quoted(machine: Machine) -> None:
    machine.driver = DriverLibrary(cuInit=803)
    assert "cuInit gave error 803 (what error 803 means)" in reason()


def test_a_driver_of_another_major_version_is_to_be_updated(machine: Machine) -> None:
    machine.driver = DriverLibrary(version=12_080)
    assert "runs CUDA up to 12.8, and the ONNX Runtime installed here is built for CUDA 13" in reason()
    assert "Update the driver, or install a build of onnxruntime-gpu for CUDA 12" in reason()


def test_missing_libraries_are_named_with_what_brings_them(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.driver = DriverLibrary()
    assert "libcublasLt.so.13: cannot open" in reason()
    assert 'libraries of CUDA 13 and cuDNN 9: pip install "memrerank[gpu]"' in reason()
    assert machine.asked[0] == [PROVIDER]
    assert capsys.readouterr().out == ""


def test_libraries_of_another_major_version_are_named(machine: Machine) -> None:
    machine.driver = DriverLibrary()
    machine.packages.add("nvidia-cublas-cu12")
    assert "those of CUDA 12 are installed" in reason()
    assert "onnxruntime-gpu for CUDA 12" in reason()


def test_a_provider_that_loads_and_fails_is_quoted_briefly(machine: Machine) -> None:
    def fail() -> None:
        raise RuntimeError(RECORDED["session_error_with_a_driver_that_fails"])

    machine.driver, machine.session = DriverLibrary(), fail
    assert "CUDA failure 36: API call is not supported in the installed CUDA driver." in reason()
    assert "CudaCall" not in reason()


def test_a_build_that_does_not_tell_its_cuda_is_tried(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "cuda_version")
    monkeypatch.delattr(ort, "preload_dlls")
    machine.driver = DriverLibrary(version=12_060)
    machine.session = lambda: SimpleNamespace(get_providers=lambda: [PROVIDER, "CPUExecutionProvider"])
    assert isinstance(require_cuda(), Driver)


def test_the_driver_tells_its_version_and_free_memory_and_keeps_nothing(machine: Machine) -> None:
    machine.driver = DriverLibrary(version=13_020)
    assert (Driver().cuda_version(), Driver().free_memory(), machine.driver.contexts) == ((13, 2), FREE, 0)
    machine.driver = DriverLibrary(cuMemGetInfo_v2=999)
    with pytest.raises(DeviceError, match="cuMemGetInfo_v2 gave error 999"):
        Driver().free_memory()
    assert machine.driver.contexts == 0


def assigned(**operators: Sequence[str]) -> Any:
    """A session whose operators were assigned to providers."""

    def part(provider: str, types: Sequence[str]) -> Any:
        nodes = [SimpleNamespace(op_type=name) for name in types]
        return SimpleNamespace(ep_name=f"{provider}ExecutionProvider", get_nodes=lambda: nodes)

    parts = [part(provider, types) for provider, types in operators.items()]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_operators_of_weight_on_the_cpu_are_refused_and_counted() -> None:
    with pytest.raises(DeviceError, match=r"\(1 Attention, 2 MatMulNBits\).*--device cpu"):
        require_on_gpu(assigned(CUDA=["MatMul"], CPU=["Shape", "MatMulNBits", "Attention", "MatMulNBits"]))


def test_a_runtime_that_does_not_tell_where_operators_run_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"does not tell which operators.*1\.31"):
        require_on_gpu(SimpleNamespace())


def test_shapes_may_be_computed_on_the_cpu() -> None:
    require_on_gpu(assigned(CUDA=["MatMul", "Attention"], CPU=["Shape", "Concat", "Sub", "Add"]))


def test_a_session_that_opened_on_the_cpu_is_refused(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="on the CPU instead of the GPU"):
        open_cuda_session(tmp_path / "model.onnx", 1 << 30)
    [(name, options)] = machine.asked[0]
    assert (name, options["gpu_mem_limit"], options["arena_extend_strategy"]) == (
        PROVIDER, "1073741824", "kSameAsRequested",
    )  # fmt: skip


# Which device is chosen


@pytest.mark.parametrize(
    ("requested", "built_for", "device"),
    [("auto", "cpu", "cpu"), ("cpu", "cpu", "cpu"), ("cpu", "cuda", "cpu")],
)
def test_a_cpu_is_taken_where_it_was_asked_for(
    machine: Machine, requested: str, built_for: str, device: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert choose_device(requested, built_for) == device
    assert not recwarn.list


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_a_gpu_is_taken_where_there_is_one(machine: Machine, requested: str) -> None:
    machine.driver = DriverLibrary()
    machine.session = lambda: SimpleNamespace(get_providers=lambda: [PROVIDER, "CPUExecutionProvider"])
    assert choose_device(requested, "cuda") == "cuda"


def test_auto_falls_back_with_a_warning_that_names_the_reason(machine: Machine) -> None:
    with pytest.warns(UserWarning, match="built for cuda and runs on the CPU.*No NVIDIA driver was found"):
        assert choose_device("auto", "cuda") == "cpu"


def test_cuda_never_falls_back(machine: Machine) -> None:
    with pytest.raises(DeviceError, match="No NVIDIA driver"):
        choose_device("cuda", "cuda")


def test_an_artifact_for_cpus_is_not_run_on_cuda(machine: Machine) -> None:
    with pytest.raises(DeviceError, match=r"built for cpu and does not run on cuda.*--device cuda"):
        choose_device("cuda", "cpu")


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"onnxruntime", "onnxruntime-gpu"}, "Both onnxruntime and onnxruntime-gpu.*Remove both"),
        (set(), "not installed.*memrerank\\[cpu\\].*memrerank\\[gpu\\]"),
        ({"onnxruntime"}, "not installed.*memrerank\\[cpu\\].*memrerank\\[gpu\\]"),
    ],
)
def test_both_packages_or_neither_are_refused(
    installed: set[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memrerank.installation.is_installed", installed.__contains__)
    monkeypatch.setattr("memrerank.installation.find_spec", lambda _: None)
    with pytest.raises(InstallationError, match=message):
        require_one_onnxruntime()


def test_loading_on_cuda_raises_and_auto_warns_where_there_is_no_gpu(cuda_artifact: Path) -> None:
    try:
        require_cuda()
    except DeviceError as error:
        found = str(error)
    else:
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match=re.escape(found)):
        Reranker.load(cuda_artifact, device="cuda")
    with pytest.warns(UserWarning, match=re.escape(found)):
        assert Reranker.load(cuda_artifact).device == "cpu"
