"""What a logit is worth: a probability, an interval for it, and thresholds that keep a promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memrerank.errors import CalibrationError, InputError
from memrerank.promise import Promise, Threshold

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The probability at each of a rising row of logits, with 95% confidence limits; straight lines between them.

    Below the first logit and above the last the probability stays what it is there.
    """

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class OperatingPoints:
    """What keeping the documents from a logit on gives: estimates, and one-sided 97.5% confidence limits.

    All are rows of the same length, by falling logit. Precision holds at the base rate of the calibration data.
    """

    logits: tuple[float, ...]
    precision: tuple[float, ...]
    precision_low: tuple[float, ...]
    recall: tuple[float, ...]
    recall_low: tuple[float, ...]
    false_positive_rate: tuple[float, ...]
    false_positive_rate_high: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """A calibration of the model `model_id`.

    `base_rate` is the share of relevant documents in the data it was fitted on, `data` describes these data, and
    `metrics` holds what cross-validation measured.
    """

    model_id: str
    method: str
    base_rate: float
    curve: Curve
    points: OperatingPoints
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]

    def probability(self, logits: npt.ArrayLike, base_rate: float | None = None) -> Array:
        """The probability that a document with such a logit is relevant, where `base_rate` of the documents are."""
        return self._shift(self._interpolate(logits, self.curve.probabilities), base_rate)

    def interval(self, logits: npt.ArrayLike, base_rate: float | None = None) -> tuple[Array, Array]:
        """95% confidence limits of `probability`: how far it may lie from the truth for want of calibration data."""
        low, high = (self._interpolate(logits, values) for values in (self.curve.low, self.curve.high))
        return self._shift(low, base_rate), self._shift(high, base_rate)

    def threshold(self, promise: Promise, base_rate: float | None = None) -> Threshold:
        """The loosest threshold whose confidence limit keeps `promise`; for a recall, the strictest."""
        points, scores = self._distinct_points(base_rate)
        kept = np.flatnonzero(promise.kept_by(points))
        if not kept.size:
            best = promise.best(points)
            raise CalibrationError(
                f"{promise} cannot be promised: the best that the calibration data support is {best:.3f} "
                f"({self.data['pairs']} pairs, {self.data['positives']:g} of them relevant). Ask for less, or "
                "calibrate with more pairs of your own: memrerank-calibrate."
            )
        at = int(kept[0] if promise.name == "recall" else kept[-1])
        found = {name: float(points[name][at]) for name in ("precision", "recall", "false_positive_rate")}
        return Threshold(float(scores[at]), promise, **found)

    def estimate_base_rate(self, logits: npt.ArrayLike) -> float:
        """The share of relevant documents among unlabelled ones with these logits, shape [documents].

        The most likely one if they differ from the calibration data in that share alone, by expectation maximization
        (Saerens, Latinne and Decaestecker 2002). Where they differ otherwise, as another retriever's candidates may,
        the estimate is biased; a few labels are then worth more.
        """
        fitted = self.probability(logits)
        if not fitted.size:
            raise InputError("There are no logits; those of at least a few hundred documents were expected.")
        rate, before = self.base_rate, -1.0
        while abs(rate - before) > 1e-9:
            rate, before = float(with_base_rate(fitted, self.base_rate, rate).mean()), rate
        return rate

    def _interpolate(self, logits: npt.ArrayLike, values: tuple[float, ...]) -> Array:
        return np.interp(np.asarray(logits, np.float64), self.curve.logits, values)

    def _shift(self, probabilities: Array, base_rate: float | None) -> Array:
        if base_rate is None:
            return probabilities
        return with_base_rate(probabilities, self.base_rate, check_base_rate(base_rate))

    def _distinct_points(self, base_rate: float | None) -> tuple[dict[str, Array], Array]:
        """The operating points with their scores, float32 as those of hits; of points with one score the loosest.

        Above the last knot of the curve scores no longer rise, and what is kept there is kept together.
        """
        points = self._points_at(base_rate)
        scores = self.probability(points["logits"], base_rate).astype(np.float32)
        loosest = np.append(scores[1:] != scores[:-1], True)
        return {name: values[loosest] for name, values in points.items()}, scores[loosest]

    def _points_at(self, base_rate: float | None) -> dict[str, Array]:
        """The operating points; at another base rate, precision follows from recall and false positive rate."""
        points = {name: np.array(values) for name, values in vars(self.points).items()}
        if base_rate is not None:
            rate = check_base_rate(base_rate)
            points["precision"] = _precision(points["recall"], points["false_positive_rate"], rate)
            points["precision_low"] = _precision(points["recall_low"], points["false_positive_rate_high"], rate)
        return points


def check_base_rate(base_rate: object) -> float:
    """The base rate as a number; InputError if it is none between 0 and 1."""
    if isinstance(base_rate, (int, float, np.floating)) and 0 < base_rate < 1:
        return float(base_rate)
    raise InputError(
        f"base_rate is {base_rate!r}; the share of relevant documents among those scored was expected, a number "
        "between 0 and 1 such as 0.02."
    )


def with_base_rate(probabilities: Array, fitted: float, wanted: float) -> Array:
    """Probabilities fitted where the share `fitted` is relevant, where it is `wanted`: Bayes' rule for the odds."""
    ratio = wanted / (1 - wanted) * (1 - fitted) / fitted
    return probabilities * ratio / (probabilities * ratio + 1 - probabilities)


def _precision(recall: Array, false_positive_rate: Array, base_rate: float) -> Array:
    """Of the documents kept, those that are relevant: 0 where nothing may be."""
    right, wrong = recall * base_rate, false_positive_rate * (1 - base_rate)
    return np.divide(right, right + wrong, out=np.zeros_like(right), where=right > 0)


def parse_calibration(content: Mapping[str, Any]) -> Calibration:
    """A calibration from a manifest's JSON; KeyError, TypeError or ValueError says what is wrong."""
    curve = Curve(**{name: _numbers(values) for name, values in content["curve"].items()})
    points = OperatingPoints(**{name: _numbers(values) for name, values in content["points"].items()})
    for table in (curve, points):
        if len({len(values) for values in vars(table).values()}) != 1:
            raise ValueError("the rows of the calibration differ in length")
    _check_curve(curve)
    base_rate = float(content["base_rate"])
    if not 0 < base_rate < 1:
        raise ValueError(f"the base rate {base_rate} is not between 0 and 1")
    texts = {name: str(content[name]) for name in ("model_id", "method")}
    return Calibration(
        **texts,
        base_rate=base_rate,
        curve=curve,
        points=points,
        data=dict(content["data"]),
        metrics=dict(content["metrics"]),
    )


def _numbers(values: list[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not np.isfinite(numbers).all():
        raise ValueError("the calibration holds a number that is not finite")
    return numbers


def _check_curve(curve: Curve) -> None:
    logits, probabilities, low, high = (np.array(values) for values in vars(curve).values())
    if not len(logits) or (np.diff(logits) <= 0).any() or (np.diff(probabilities) <= 0).any():
        raise ValueError("the curve of the calibration does not rise")
    if not ((low > 0) & (low <= probabilities) & (probabilities <= high) & (high < 1)).all():
        raise ValueError("the curve of the calibration leaves its limits, or the range between 0 and 1")
