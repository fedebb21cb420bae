"""The curve from logits to probabilities, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memrerank import CalibrationError
from memrerank.calibration import Curve
from memrerank_calibration.isotonic import centred_isotonic
from memrerank_calibration.logistic import fit_logistic
from memrerank_calibration.sample import Array, Sample

FEW = 30
"""With less than this weight of relevant or of irrelevant pairs, two parameters are all that the data support."""

BLEND = 10
"""The logistic curve counts in the isotonic one as so many pairs of the rarer label would."""

GRID = 64
REFITS = 200


@dataclass(frozen=True)
class Fitted:
    """A rising function from logits to probabilities, the range of logits that it was fitted on, and its knots."""

    method: str
    predict: Callable[[Array], Array]
    knots: Array


def fit(sample: Sample) -> Fitted:
    """Centred isotonic regression with a share of logistic regression, or that alone where labels are few.

    The logistic share keeps the curve rising in its end blocks too, which isotonic regression leaves flat, and shrinks
    as labels grow. Raises CalibrationError if a label is missing or probability does not rise with the logit.
    """
    rarer = min(sample.positives, sample.negatives)
    if rarer <= 0:
        raise CalibrationError(
            f"All {len(sample.labels)} pairs have the label {sample.labels[0]:g}; relevant and irrelevant pairs were "
            "expected."
        )
    logistic = fit_logistic(sample)
    bounds = 1 / (sample.negatives + 2), (sample.positives + 1) / (sample.positives + 2)
    grid = np.unique(np.quantile(sample.logits, np.linspace(0, 1, GRID), method="nearest"))
    if rarer < FEW:
        return Fitted("logistic", lambda logits: logistic(logits).clip(*bounds), grid)
    centres, values = centred_isotonic(sample)
    share = BLEND / (BLEND + rarer)

    def predict(logits: Array) -> Array:
        return share * logistic(logits).clip(*bounds) + (1 - share) * np.interp(logits, centres, values)

    return Fitted("centred isotonic", predict, np.unique(np.concatenate([grid, centres])))


def fit_curve(sample: Sample) -> tuple[str, Curve]:
    """The method used, and the curve with 95% limits from refits to queries drawn anew.

    The bootstrap over queries shows what other questions would have given. Venn-Abers intervals, which move a single
    label, would leave out that pairs of one query belong together.
    """
    fitted = fit(sample)
    probabilities = fitted.predict(fitted.knots)
    refits = [_refit(sample.take(drawn), fitted.knots) for drawn in sample.bootstrap_indices(REFITS)]
    low, high = np.quantile(refits, [0.025, 0.975], axis=0)
    kept = np.diff(np.maximum.accumulate(probabilities), prepend=0) > 1e-12
    rows = fitted.knots, probabilities, np.minimum(low, probabilities), np.maximum(high, probabilities)
    return fitted.method, Curve(*(tuple(values[kept].tolist()) for values in rows))


def _refit(sample: Sample, knots: Array) -> Array:
    try:
        return fit(sample).predict(knots)
    except CalibrationError:  # drawn so that one label is missing or scores do not help: the base rate alone is known
        return np.full(len(knots), (sample.positives + 0.5) / (sample.positives + sample.negatives + 1))
