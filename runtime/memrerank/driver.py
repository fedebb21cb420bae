"""The NVIDIA driver, asked directly: whether there is one, which CUDA it knows and how much memory is free."""

from __future__ import annotations

import ctypes
import os
import sys

from memrerank.errors import DeviceError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""


class Driver:
    """CUDA's driver API, which comes with the driver and needs no other library. DeviceError says what is wrong."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise DeviceError(
                f"No NVIDIA driver was found on this machine ({error}). Install the driver for its GPU; in a "
                "container, start it with the GPU (docker run --gpus all)."
            ) from error
        self._call("cuInit", ctypes.c_uint(0))

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA that the driver can run: major and minor version."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def free_memory(self) -> int:
        """Bytes of the first visible GPU's memory that nobody holds."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            finally:
                self._call("cuCtxPopCurrent_v2", ctypes.byref(context))
        finally:
            self._call("cuDevicePrimaryCtxRelease_v2", device)
        return free.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == NO_DEVICE:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            hidden = "" if visible is None else f" CUDA_VISIBLE_DEVICES is {visible!r}: it may hide them."
            raise DeviceError(f"The NVIDIA driver finds no GPU.{hidden} Check what nvidia-smi lists.")
        if code:
            raise DeviceError(
                f"The NVIDIA driver failed: {name} gave error {code} ({self._reason(code)}). Check that nvidia-smi "
                "works; after an update of the driver, restart the machine."
            )

    def _reason(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
        return (text.value or b"unknown error").decode()
