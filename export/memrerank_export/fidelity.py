"""How far an artifact's logits are from those of a float reference on a set of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from memrerank import Reranker
from memrerank_calibration.pairs import Pair, read_pairs
from memrerank_export.reference import Reference

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fidelity:
    """Differences of logits over `pairs` pairs; `kendall_tau` is the mean over queries with several documents."""

    reference: str
    pairs: int
    max_difference: float
    mean_difference: float
    kendall_tau: float | None


def built_in_pairs() -> list[Pair]:
    """A few memories and questions that come with the exporter."""
    return read_pairs(Path(str(files("memrerank_export").joinpath("fidelity_pairs.jsonl"))))


def measure_fidelity(
    reranker: Reranker, reference: Reference, pairs: Sequence[Pair], on_pair: Callable[[int, int], None]
) -> Fidelity:
    """Score `pairs` by both, pair by pair; `on_pair` is told how many of how many are done."""
    expected, found = [], []
    for done, pair in enumerate(pairs, start=1):
        expected.append(reference(reranker.encode(pair.query, pair.document, context=pair.context, time=pair.time)))
        [logit] = reranker.score(pair.query, [pair.document], context=pair.context, time=pair.time, raw=True)
        found.append(logit)
        on_pair(done, len(pairs))
    return compare(reference.name, [pair.query for pair in pairs], np.array(expected), np.array(found))


def compare(reference: str, queries: Sequence[str], expected: Logits, found: Logits) -> Fidelity:
    """Compare logits pair by pair, and their order query by query."""
    difference = np.abs(expected - found)
    return Fidelity(
        reference, len(queries), float(difference.max()), float(difference.mean()), _mean_tau(queries, expected, found)
    )


def _mean_tau(queries: Sequence[str], expected: Logits, found: Logits) -> float | None:
    names = np.array(queries)
    taus = [float(kendalltau(expected[names == name], found[names == name]).statistic) for name in sorted(set(queries))]
    known = [tau for tau in taus if not np.isnan(tau)]
    return float(np.mean(known)) if known else None
