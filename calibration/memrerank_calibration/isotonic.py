"""Centred isotonic regression: monotone as isotonic regression is, but without plateaus and never 0 or 1."""

from __future__ import annotations

import numpy as np
from sklearn.isotonic import IsotonicRegression

from memrerank_calibration.sample import Array, Sample

HALF = 0.5
"""The weight of the relevant and the irrelevant pseudo-observation at each end: Jeffreys' prior for a share."""


def centred_isotonic(sample: Sample) -> tuple[Array, Array]:
    """Logits and probabilities of the curve's knots, both rising.

    scikit-learn's isotonic regression gives blocks of equal probability. Each block becomes one knot at its mean logit
    (Oron and Flournoy 2017, "Centered isotonic regression"), so the curve rises wherever there are data. Half a
    relevant and half an irrelevant pair are added at both ends: a lowest block without any relevant pair among n gets
    1/2 in n + 1, not 0.
    """
    logits = np.concatenate([sample.logits, np.repeat([sample.logits.min(), sample.logits.max()], 2)])
    labels = np.concatenate([sample.labels, [0, 1, 0, 1]])
    weights = np.concatenate([sample.weights, np.full(4, HALF)])
    fitted = IsotonicRegression(out_of_bounds="clip").fit_transform(logits, labels, sample_weight=weights)
    values, block = np.unique(fitted.round(12), return_inverse=True)
    mass = np.bincount(block, weights)
    return np.bincount(block, weights * logits) / mass, values
