"""Judged pairs with their logits: what a calibration is fitted on and measured by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memrerank import InputError, Reranker
from memrerank_calibration.pairs import Pair

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

SEED = 0
"""Of all resampling, so that the same data give the same calibration."""


@dataclass(frozen=True)
class Sample:
    """One entry per pair: logits, labels in [0, 1], weights (of mean 1), and the number of the query it belongs to."""

    logits: Array
    labels: Array
    weights: Array
    queries: Indices

    def take(self, indices: npt.NDArray[np.generic]) -> Sample:
        """The pairs at `indices`, or where a mask is true."""
        return Sample(self.logits[indices], self.labels[indices], self.weights[indices], self.queries[indices])

    @property
    def positives(self) -> float:
        """The weight of what is relevant."""
        return float(self.weights @ self.labels)

    @property
    def negatives(self) -> float:
        """The weight of what is not relevant."""
        return float(self.weights @ (1 - self.labels))

    @property
    def base_rate(self) -> float:
        """The share of what is relevant."""
        return self.positives / (self.positives + self.negatives)

    def bootstrap_indices(self, times: int) -> Iterator[Indices]:
        """The pairs of queries drawn anew, for each time: pairs of one query are not independent of each other.

        The pairs of a single query are drawn one by one, as nothing else would vary.
        """
        rng = np.random.default_rng(SEED)
        order = np.argsort(self.queries, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(self.queries[order])) + 1)
        if len(members) == 1:
            members = list(order[:, None])
        for _ in range(times):
            drawn = rng.integers(len(members), size=len(members))
            yield np.concatenate([members[i] for i in drawn])


def make_sample(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    queries: npt.ArrayLike | None = None,
) -> Sample:
    """A sample of the pairs that have a weight; without `queries`, every pair counts as a query of its own."""
    found, judged = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    weight = np.ones_like(found) if weights is None else np.asarray(weights, np.float64)
    query = np.arange(len(found)) if queries is None else np.asarray(queries, np.int64)
    used = weight > 0
    if not used.any():
        raise InputError("All pairs have the weight 0; pairs that count were expected.")
    return Sample(found[used], judged[used], weight[used] / weight[used].mean(), query[used])


def score_pairs(reranker: Reranker, pairs: Sequence[Pair], progress: Callable[[int], object]) -> Sample:
    """The pairs with the logits that `reranker` gives them; `progress` is told how many each step scored."""
    questions: dict[object, list[int]] = {}
    for i, pair in enumerate(pairs):
        questions.setdefault(pair.question, []).append(i)
    logits, queries = np.empty(len(pairs)), np.empty(len(pairs), np.int64)
    for number, members in enumerate(questions.values()):
        first, documents = pairs[members[0]], [pairs[i].document for i in members]
        logits[members] = reranker.score(first.query, documents, context=first.context, time=first.time, raw=True)
        queries[members] = number
        progress(len(members))
    return make_sample(logits, [pair.label for pair in pairs], [pair.weight for pair in pairs], queries)
