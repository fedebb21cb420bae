"""How far probabilities are from what happens."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from relplot.metrics import smECE
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss

from memrerank_calibration.sample import SEED, Array, Sample

BINS = 15
RESAMPLES = 200

INTERVALS = ("smooth_calibration_error", "brier", "log_loss")
"""The figures that get intervals."""


def measure(probabilities: Array, sample: Sample) -> dict[str, float]:
    """All figures; lower is better, but for `discrimination`. A soft label counts as a share of both labels."""
    brier = _brier(probabilities, sample)
    isotonic = IsotonicRegression(out_of_bounds="clip")  # probabilities within 1e-15 of the highest count as beyond it
    recalibrated = isotonic.fit_transform(probabilities, sample.labels, sample_weight=sample.weights)
    best = _brier(recalibrated, sample)
    uncertainty = _brier(np.full(len(probabilities), sample.base_rate), sample)
    return {
        "smooth_calibration_error": smooth_calibration_error(probabilities, sample),
        "adaptive_calibration_error": adaptive_calibration_error(probabilities, sample),
        "brier": brier,
        "miscalibration": brier - best,
        "discrimination": uncertainty - best,
        "uncertainty": uncertainty,
        "log_loss": _log_loss(probabilities, sample),
    }


def smooth_calibration_error(probabilities: Array, sample: Sample) -> float:
    """smECE of Blasiok and Nakkiran (2023): no bins, so no number of bins to choose."""
    if np.ptp(sample.weights) == 0:
        return float(smECE(probabilities, sample.labels))
    rng = np.random.default_rng(SEED)  # relplot knows no weights
    drawn = rng.choice(len(probabilities), size=4 * len(probabilities), p=sample.weights / sample.weights.sum())
    return float(smECE(probabilities[drawn], sample.labels[drawn]))


def adaptive_calibration_error(probabilities: Array, sample: Sample, bins: int = BINS) -> float:
    """Mean distance of mean probability and share of relevant pairs over bins of equal weight (Nixon et al. 2019)."""
    table = reliability(probabilities, sample, bins)
    return float(np.average(np.abs(table[:, 0] - table[:, 1]), weights=table[:, 2]))


def reliability(probabilities: Array, sample: Sample, bins: int = BINS) -> Array:
    """Mean probability, share of relevant pairs and weight of each bin, [bins, 3]; bins have equal weight."""
    order = np.argsort(probabilities, kind="stable")
    weights = sample.weights[order]
    middle = np.cumsum(weights) - weights / 2
    number = np.minimum((middle / weights.sum() * bins).astype(int), bins - 1)
    mass = np.bincount(number, weights, bins)
    sums = [np.bincount(number, weights * values[order], bins) for values in (probabilities, sample.labels)]
    used = mass > 0
    return np.stack([sums[0][used] / mass[used], sums[1][used] / mass[used], mass[used]], axis=1)


def intervals(predictions: Mapping[str, Array], sample: Sample) -> dict[str, dict[str, list[float]]]:
    """95% intervals of the main figures of each prediction, from queries drawn anew.

    Calibration errors of a drawn sample are too high, as noise adds to them, so draws are moved to have the estimate
    in their middle. Other predictions are compared with the first one on the same draws: `brier_minus_<first>` above
    zero says that the first is better.
    """
    drawn = list(sample.bootstrap_indices(RESAMPLES))
    estimates = {name: _main(values, sample) for name, values in predictions.items()}
    draws = {name: np.array([_main(values[i], sample.take(i)) for i in drawn]) for name, values in predictions.items()}
    first = next(iter(predictions))
    found: dict[str, dict[str, list[float]]] = {}
    for name in predictions:
        found[name] = {figure: _spread(estimates[name][j], draws[name][:, j]) for j, figure in enumerate(INTERVALS)}
        if name != first:
            for j, figure in enumerate(INTERVALS[1:], start=1):
                gap = draws[name][:, j] - draws[first][:, j]
                found[name][f"{figure}_minus_{first}"] = _spread(estimates[name][j] - estimates[first][j], gap)
    return found


def _main(probabilities: Array, sample: Sample) -> Array:
    return np.array(
        [
            smooth_calibration_error(probabilities, sample),
            _brier(probabilities, sample),
            _log_loss(probabilities, sample),
        ]
    )


def _spread(estimate: float, draws: Array) -> list[float]:
    limits = np.quantile(draws, [0.025, 0.975]) - np.median(draws) + estimate
    return [round(float(limit), 5) for limit in limits]


def _hard(sample: Sample) -> tuple[Array, Array]:
    """Labels 1 and 0 for every pair, and the weight of each."""
    labels = np.repeat([1, 0], len(sample.labels))
    return labels, np.concatenate([sample.weights * sample.labels, sample.weights * (1 - sample.labels)])


def _brier(probabilities: Array, sample: Sample) -> float:
    labels, weights = _hard(sample)
    return float(brier_score_loss(labels, np.tile(probabilities, 2), sample_weight=weights))


def _log_loss(probabilities: Array, sample: Sample) -> float:
    labels, weights = _hard(sample)
    return float(log_loss(labels, np.tile(probabilities, 2), sample_weight=weights, labels=[0, 1]))
