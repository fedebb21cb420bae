"""The machine and the versions that figures hold for."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from memrerank.threads import available_cpus
from memrerank_bench.gpu import gpu_names

VERSIONS = ("memrerank", "onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "torch", "transformers")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""What decides the speed of integer matmuls on x86 and on ARM."""


def describe_machine() -> dict[str, str]:
    """Processor, memory, accelerators where there are any, Python, and the versions of what is installed."""
    installed = {name: found for name in VERSIONS if (found := _version(name))}
    gpus = gpu_names()
    return {
        "processor": _processor(),
        "usable_cpus": str(available_cpus()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        **({"gpu": ", ".join(gpus)} if gpus else {}),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **installed,
    }


def in_words(machine: dict[str, str]) -> str:
    """The machine as a line of text."""
    names = {"usable_cpus": "usable CPUs", "gpu": "GPU"}
    return "; ".join(f"{names.get(name, name)} {value}" for name, value in machine.items())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    text = _read("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    has = (named.get("flags") or named.get("Features") or "").split()
    board = _read("/proc/device-tree/model").strip("\0\n")
    model = named.get("model name") or board or platform.processor() or platform.machine()
    return f"{model}, {psutil.cpu_count()} CPUs, {' '.join(flag for flag in FLAGS if flag in has)}".strip(", ")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
