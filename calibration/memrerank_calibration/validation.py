"""What a calibration is worth on queries that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.model_selection import GroupKFold

from memrerank import CalibrationError
from memrerank_calibration.fit import fit
from memrerank_calibration.metrics import intervals, measure
from memrerank_calibration.sample import Array, Sample

FOLDS = 5


@dataclass(frozen=True)
class Validation:
    """Probabilities for each pair of `sample` by name, and their figures.

    "calibrated" is fitted on other queries than those it is applied to, "sigmoid" is that of the logit and "base rate"
    the same probability for every pair.
    """

    sample: Sample
    predictions: Mapping[str, Array]
    figures: Mapping[str, Mapping[str, Any]]


def cross_validate(sample: Sample) -> Validation | None:
    """Figures from folds that share no query; None if the queries are too few to be divided."""
    calibrated = np.empty(len(sample.logits))
    base_rate = np.empty(len(sample.logits))
    folds = min(FOLDS, len(np.unique(sample.queries)))
    if folds < 2:
        return None
    for rest, held_out in GroupKFold(folds).split(sample.logits, groups=sample.queries):
        try:
            calibrated[held_out] = fit(sample.take(rest)).predict(sample.logits[held_out])
        except CalibrationError:  # what is left has one label only
            return None
        base_rate[held_out] = sample.take(rest).base_rate
    predictions = {"calibrated": calibrated, "sigmoid": expit(sample.logits), "base rate": base_rate}
    return Validation(sample, predictions, figures(predictions, sample))


def figures(predictions: Mapping[str, Array], sample: Sample) -> dict[str, dict[str, Any]]:
    """The figures of each prediction, with their intervals."""
    limits = intervals(predictions, sample)
    return {
        name: {figure: round(value, 5) for figure, value in measure(values, sample).items()}
        | {"intervals": limits[name]}
        for name, values in predictions.items()
    }
