"""What came out of a calibration, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from memrerank import CalibrationError, Threshold
from memrerank.calibration import Calibration
from memrerank.promise import Promise
from memrerank_calibration.calibrate import Calibrated
from memrerank_calibration.metrics import INTERVALS

PROMISES = tuple(
    Promise(name, value)
    for name, values in {
        "precision": (0.5, 0.7, 0.8, 0.9, 0.95),
        "recall": (0.8, 0.9, 0.95, 0.99),
        "false_positive_rate": (0.05, 0.01),
    }.items()
    for value in values
)
"""What reports show thresholds for."""

NAMES = {
    "smooth_calibration_error": "smooth calibration error",
    "adaptive_calibration_error": "calibration error, equal bins",
    "brier": "Brier score",
    "miscalibration": "  of it miscalibration",
    "discrimination": "  less discrimination",
    "uncertainty": "  of it uncertainty",
    "log_loss": "log loss",
}
"""The figures as people call them."""


def summary(calibrated: Calibrated) -> str:
    """The report for a terminal."""
    return "\n".join(_lines(calibrated))


def _lines(calibrated: Calibrated) -> Iterator[str]:
    calibration, validation = calibrated.calibration, calibrated.validation
    yield f"artifact      {calibrated.folder}"
    yield f"data          {describe_data(calibration)}"
    yield f"method        {describe_method(calibration)}"
    if validation is None:
        yield "error         not measured: too few queries to leave some out"
    else:
        yield f"{'':30}{'calibrated':>12}{'sigmoid':>12}{'base rate':>12}"
        for figure in INTERVALS:
            values = "".join(f"{validation.figures[name][figure]:12.4f}" for name in validation.predictions)
            yield f"  {NAMES[figure]:28}{values}"
    yield ""
    yield f"  {'promise':28}{'threshold':>12}{'precision':>12}{'recall':>12}"
    for promise in PROMISES:
        point = operating_point(calibration, promise)
        if point is None:
            yield f"  {promise!s:28}{'the data do not support it':>36}"
        else:
            yield f"  {promise!s:28}{float(point):12.4f}{point.precision:12.3f}{point.recall:12.3f}"


def operating_point(calibration: Calibration, promise: Promise) -> Threshold | None:
    """The threshold that keeps a promise; None if the data do not support any."""
    try:
        return calibration.threshold(promise)
    except CalibrationError:
        return None


def describe_data(calibration: Calibration) -> str:
    """The data a calibration was fitted on, in words."""
    data = calibration.data
    return (
        f"{data['file']}: {data['pairs']:,} pairs of {data['queries']:,} queries, "
        f"{calibration.base_rate:.1%} of them relevant"
    )


def describe_method(calibration: Calibration) -> str:
    """The method, and why it was chosen where it is not the usual one."""
    if calibration.method == "logistic":
        return "logistic: too few relevant or irrelevant pairs for isotonic regression; more labels would help"
    return f"{calibration.method} regression, {len(calibration.curve.logits)} knots"
