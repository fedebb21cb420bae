"""Average precision, reciprocal rank and NDCG@10 of rankings, with bootstrap intervals over queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

METRICS = ("map", "mrr", "ndcg10")
Figures = npt.NDArray[np.float64]


def figures(relevant: Sequence[bool], gold: int) -> tuple[float, float, float]:
    """Average precision, reciprocal rank and NDCG@10 of one ranking.

    `relevant` says of each ranked document whether it is gold; gold documents that were not ranked count as lost.
    """
    ranks = np.flatnonzero(np.asarray(relevant)) + 1
    if not len(ranks):
        return 0.0, 0.0, 0.0
    precision = float((np.arange(1, len(ranks) + 1) / ranks).sum()) / gold
    gain = float((1 / np.log2(ranks[ranks <= 10] + 1)).sum())
    ideal = float((1 / np.log2(np.arange(1, min(gold, 10) + 1) + 1)).sum())
    return precision, 1 / float(ranks[0]), gain / ideal


def ranked(scores: npt.ArrayLike, relevant: Sequence[bool]) -> list[bool]:
    """`relevant` in the order of falling scores; ties keep their order."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return [relevant[i] for i in order]


def interval(values: Figures, seed: int = 0, samples: int = 2000) -> dict[str, float]:
    """Mean of `values` [queries] with its 95% percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (samples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": _round(values.mean()), "low": _round(low), "high": _round(high)}


def summary(values: Figures) -> dict[str, dict[str, float]]:
    """Each metric of `values` [queries, metrics] with its interval."""
    return {metric: interval(values[:, i]) for i, metric in enumerate(METRICS)}


def compare(values: Figures, others: Mapping[str, Figures]) -> dict[str, dict[str, dict[str, float]]]:
    """What `values` [queries, metrics] gain over each of `others`, query by query, with paired intervals."""
    return {name: summary(values - other) for name, other in others.items()}


def _round(value: np.floating) -> float:
    return round(float(value), 4)
