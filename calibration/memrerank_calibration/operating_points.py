"""What thresholds give, with confidence limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from memrerank.calibration import OperatingPoints
from memrerank_calibration.sample import Array, Sample

POINTS = 128
"""How many thresholds are taken from the logits of what is relevant, and from all logits."""

ERROR = 0.025
"""The chance that a limit is on the wrong side, for each limit on its own."""


@dataclass(frozen=True)
class Share:
    """A share with its one-sided lower and upper confidence limit."""

    value: float
    low: float
    high: float


def operating_points(sample: Sample) -> OperatingPoints:
    """Precision, recall and false positive rate of keeping all from a logit on, for thresholds by falling logit."""
    relevant, irrelevant = sample.weights * sample.labels, sample.weights * (1 - sample.labels)
    thresholds = _thresholds(sample)
    shares = []
    for threshold in thresholds:
        kept = sample.logits >= threshold
        precision = share(relevant * kept, sample.weights * kept, sample.queries)
        recall = share(relevant * kept, relevant, sample.queries)
        wrong = share(irrelevant * kept, irrelevant, sample.queries)
        shares.append((precision.value, precision.low, recall.value, recall.low, wrong.value, wrong.high))
    columns = [tuple(column) for column in np.array(shares).T.tolist()]
    return OperatingPoints(tuple(thresholds.tolist()), *columns)


def _thresholds(sample: Sample) -> Array:
    ranks = np.linspace(0, 1, POINTS)
    relevant = sample.logits[sample.labels >= min(0.5, sample.labels.max())]
    quantiles = [np.quantile(logits, ranks, method="nearest") for logits in (relevant, sample.logits)]
    return np.unique(np.concatenate(quantiles))[::-1]


def share(part: Array, whole: Array, queries: np.ndarray) -> Share:
    """sum(part) / sum(whole), with the limits of Clopper and Pearson for the number of independent observations.

    That number follows from the spread between queries, and is less for the doubt in a spread seen on few of them (Korn
    and Graubard 1998): pairs of one query are alike. Where nothing spreads it is the number of queries.
    """
    count = int(queries.max()) + 1
    parts, wholes = np.bincount(queries, part, count), np.bincount(queries, whole, count)
    used = wholes > 0
    parts, wholes = parts[used], wholes[used]
    value = float(parts.sum() / wholes.sum())
    clusters = len(wholes)
    variance = ((parts - value * wholes) ** 2).sum() / wholes.sum() ** 2 * clusters / max(clusters - 1, 1)
    if variance > 1e-12:
        doubt = t.ppf(ERROR, np.count_nonzero(whole) - 1) / t.ppf(ERROR, clusters - 1)
        independent = value * (1 - value) / variance * doubt**2
    else:
        independent = clusters
    independent = min(independent, whole.sum() ** 2 / (whole**2).sum())
    hits = value * independent
    low = beta.ppf(ERROR, hits, independent - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(1 - ERROR, hits + 1, independent - hits) if hits < independent else 1.0
    return Share(value, float(low), float(high))
