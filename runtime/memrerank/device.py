"""On which device an artifact runs."""

from __future__ import annotations

import warnings

from memrerank.cuda import require_cuda
from memrerank.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(requested: str, built_for: str) -> str:
    """The device on which an artifact built for `built_for` runs when the caller asks for `requested`.

    An artifact for cuda runs on a CPU too, slowly: where that is asked for, or, with a warning, where no GPU can be
    used and the choice is left to us.
    """
    if requested not in DEVICES:
        raise DeviceError(f"device is {requested!r}; one of {', '.join(DEVICES)} was expected.")
    if built_for not in ("cpu", "cuda"):
        raise DeviceError(f"This artifact was built for {built_for}; this memrerank runs those built for cpu or cuda.")
    if built_for == "cpu" and requested == "cuda":
        raise DeviceError(
            "This artifact was built for cpu and does not run on cuda. Load it with device='cpu', or export the "
            "checkpoint with --device cuda."
        )
    if built_for == "cpu" or requested == "cpu":
        return "cpu"
    try:
        require_cuda()
    except DeviceError as error:
        if requested == "cuda":
            raise
        warnings.warn(
            f"This artifact was built for cuda and runs on the CPU now, slowly. {error} Or load an artifact that was "
            "exported with --device cpu.",
            stacklevel=3,
        )
        return "cpu"
    return "cuda"
