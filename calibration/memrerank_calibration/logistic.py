"""Logistic calibration (Platt 1999): two parameters, for when there are too few labels for more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from memrerank import CalibrationError
from memrerank_calibration.sample import Array, Sample


@dataclass(frozen=True)
class Logistic:
    """The probability 1 / (1 + exp(-(slope * logit + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, logits: Array) -> Array:
        """The probability at each logit."""
        return np.asarray(expit(self.slope * logits + self.intercept))


def fit_logistic(sample: Sample) -> Logistic:
    """The most likely curve for Platt's smoothed labels, which keep it finite where a threshold separates the classes.

    Raises CalibrationError if probability does not rise with the logit.
    """
    highest = (sample.positives + 1) / (sample.positives + 2)
    lowest = 1 / (sample.negatives + 2)
    targets = lowest + (highest - lowest) * sample.labels
    logits = np.tile(sample.logits, 2)[:, None]
    classes = np.repeat([1, 0], len(targets))
    weights = np.concatenate([sample.weights * targets, sample.weights * (1 - targets)])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(logits, classes, weights)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        raise CalibrationError(
            f"The labels do not rise with the scores (slope {slope:.3f}); 1 for relevant and 0 for irrelevant pairs "
            "was expected. Check that the labels are not inverted and belong to these documents."
        )
    return Logistic(slope, intercept)
