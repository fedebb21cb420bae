"""Exactly one build of ONNX Runtime must be installed: the CPU and the GPU package overwrite each other's files."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from memrerank.errors import InstallationError

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


def require_one_onnxruntime() -> None:
    """Raise InstallationError unless exactly one ONNX Runtime is there; a user's own build counts as one."""
    installed = [package for package in PACKAGES if is_installed(package)]
    if len(installed) == 2:
        raise InstallationError(
            "Both onnxruntime and onnxruntime-gpu are installed, and they overwrite each other's files. Remove both "
            "(pip uninstall onnxruntime onnxruntime-gpu), then install one of them: "
            'pip install "memrerank[cpu]" or pip install "memrerank[gpu]".'
        )
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:  # a folder that an uninstallation left behind has no origin
        raise InstallationError(
            "ONNX Runtime is not installed. Install memrerank with exactly one of its two builds: "
            'pip install "memrerank[cpu]" (onnxruntime) or pip install "memrerank[gpu]" (onnxruntime-gpu).'
        )


def is_installed(package: str) -> bool:
    """Whether pip knows a package of that name here."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
