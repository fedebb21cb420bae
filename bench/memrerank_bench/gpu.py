"""What an accelerator says about itself: NVIDIA GPUs through NVML, Jetson boards through their own files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HWMON = Path("/sys/class/hwmon")
DEVFREQ = Path("/sys/class/devfreq")

Reading = dict[str, float | None]
NOTHING: Reading = {"memory_bytes": None, "power_watts": None, "clock_mhz": None}


def gpu_names() -> list[str]:
    """The names of NVIDIA GPUs; empty where there are none, or no driver."""
    nvml = _nvml()
    return [] if nvml is None else [_text(nvml.nvmlDeviceGetName(handle)) for handle in _handles()]


def read_gpu() -> Reading:
    """Memory in use, power and clock of the first GPU (of all its processes); None for what it does not report."""
    handles = _handles()
    return read_jetson() if not handles else _read_nvml(_nvml(), handles[0])


def read_jetson(hwmon: Path = HWMON, devfreq: Path = DEVFREQ) -> Reading:
    """Power of the board's INA3221 sensor and clock of the GPU; its memory is the machine's own."""
    return {**NOTHING, "power_watts": _board_watts(hwmon), "clock_mhz": _gpu_clock(devfreq)}


def _read_nvml(nvml: Any, handle: Any) -> Reading:
    def ask(question: Callable[[], float]) -> float | None:
        try:
            return float(question())
        except nvml.NVMLError:  # a device need not report everything
            return None

    return {
        "memory_bytes": ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
        "power_watts": ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        "clock_mhz": ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
    }


@cache
def _nvml() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return None
    except pynvml.NVMLError:  # no driver, no device
        return None
    return pynvml


@cache
def _handles() -> list[Any]:
    nvml = _nvml()
    return [] if nvml is None else [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]


def _board_watts(hwmon: Path) -> float | None:
    """Volts by amperes of the rail that feeds the whole board, VDD_IN, as Jetson's ina3221 driver shows them."""
    for label in sorted(hwmon.glob("hwmon*/in*_label")):
        number = label.name.removeprefix("in").removesuffix("_label")
        if _read(label) == "VDD_IN":
            volts, amperes = (_number(label.with_name(f"{kind}{number}_input")) for kind in ("in", "curr"))
            return None if volts is None or amperes is None else volts * amperes / 1e6
    return None


def _gpu_clock(devfreq: Path) -> float | None:
    """MHz of the first frequency domain named after a GPU (17000000.gpu, 57000000.gpu, 17000000.ga10b)."""
    for folder in sorted(devfreq.glob("*")):
        if folder.name.endswith((".gpu", ".ga10b", ".gv11b", ".gp10b")):
            hertz = _number(folder / "cur_freq")
            return None if hertz is None else hertz / 1e6
    return None


def _number(path: Path) -> float | None:
    text = _read(path)
    return float(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
