"""Figures of rankings: measures by ir-measures (trec_eval's code), intervals and tests by scipy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import AP, RR, Measure, R, nDCG
from scipy import stats

from memrerank_bench.questions import Question

Float = npt.NDArray[np.float64]
Figures = dict[str, Float]

RESAMPLES = 2000
PERMUTATIONS = 10_000


def measures(cutoffs: Sequence[int]) -> dict[str, Measure]:
    """MAP and MRR of the whole ranking, NDCG and recall at each of `cutoffs`, by the name they are shown under."""
    at = {f"NDCG@{k}": nDCG @ k for k in cutoffs} | {f"recall@{k}": R @ k for k in cutoffs}
    return {"MAP": AP, "MRR": RR, **at}


def evaluate(questions: Sequence[Question], scores: Sequence[npt.ArrayLike], cutoffs: Sequence[int]) -> Figures:
    """Each measure [questions] of the candidates in the order of falling scores; ties keep the candidates' order.

    Relevant documents that are not among the candidates count as lost.
    """
    names = measures(cutoffs)
    qrels = {question.id: dict(question.relevance) for question in questions}
    run = {question.id: _by_rank(question, each) for question, each in zip(questions, scores, strict=True)}
    place = {question.id: i for i, question in enumerate(questions)}
    shown = {measure: name for name, measure in names.items()}
    found = {name: np.zeros(len(questions)) for name in names}
    for metric in ir_measures.iter_calc(list(names.values()), qrels, run):
        found[shown[metric.measure]][place[metric.query_id]] = metric.value
    return found


def _by_rank(question: Question, scores: npt.ArrayLike) -> dict[str, float]:
    """Minus the rank for a score: trec_eval would order ties by the documents' names."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    names = list(question.candidates)
    return {names[place]: -float(rank) for rank, place in enumerate(order)}


def interval(values: Float) -> dict[str, float | None]:
    """The mean of `values` [questions] and its 95% interval, from bootstrap samples of the questions."""
    low = high = None
    if len(values) > 1:
        drawn = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0, batch=100)
        low, high = (float(end) for end in drawn.confidence_interval)
    return {"mean": float(values.mean()), "low": low, "high": high}


def gain(values: Float, others: Float) -> dict[str, float | None]:
    """The mean of `values - others`, its 95% interval over questions, and p of a paired permutation test."""
    return {**interval(values - others), "p": _permutation_p(values - others)}


def _permutation_p(differences: Float) -> float | None:
    """How often random signs of the differences give a mean as far from 0, two-sided; None for one question."""
    if len(differences) < 2:
        return None
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, rng=0, batch=200
    )
    return float(found.pvalue)


def summary(figures: Figures, chosen: npt.NDArray[np.bool_]) -> dict[str, dict[str, float | None]]:
    """Each measure over the chosen questions, with its interval."""
    return {name: interval(values[chosen]) for name, values in figures.items()}


def gains(figures: Figures, others: Figures, chosen: npt.NDArray[np.bool_]) -> dict[str, dict[str, float | None]]:
    """What each measure gains over another ranking of the same chosen questions."""
    return {name: gain(values[chosen], others[name][chosen]) for name, values in figures.items()}


def agreement(scores: Sequence[npt.ArrayLike], others: Sequence[npt.ArrayLike]) -> Mapping[str, float | None]:
    """How alike two scorers order candidates, as means over questions.

    `flips` is the share of pairs of candidates in another order, `other_first` that of questions with another best one.
    """
    found = [
        _agreement(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(scores, others, strict=True)
    ]
    taus, flips, first = (np.array(column, np.float64) for column in zip(*found, strict=True))
    known = taus[np.isfinite(taus)]
    return {
        "kendall_tau": float(known.mean()) if len(known) else None,
        "flips": float(flips.mean()),
        "other_first": float(first.mean()),
    }


def _agreement(scores: Float, others: Float) -> tuple[float, float, float]:
    one, other = (np.sign(values[:, None] - values)[np.triu_indices(len(values), 1)] for values in (scores, others))
    flips = float((one * other < 0).mean()) if len(one) else 0.0
    tau = float(stats.kendalltau(scores, others).statistic) if len(one) else float("nan")
    return tau, flips, float(len(scores) > 0 and scores.argmax() != others.argmax())
