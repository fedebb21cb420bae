"""Ranking quality of an artifact: by category, against the first stage, and against another artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from tqdm import tqdm

from memrerank import MemrerankError, Reranker
from memrerank_bench.metrics import Figures, agreement, evaluate, gains, summary
from memrerank_bench.questions import Question, Questions

Scores = list[npt.NDArray[np.float64]]

RANK_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""

OWN_WEIGHT = 2
"""How often an artifact's ranks count in a fusion where those of the first stage count once."""


@dataclass
class Scored:
    """The logits that an artifact gave to the candidates of the questions so far."""

    scores: Scores = field(default_factory=list)
    seconds: float = 0.0
    truncated: int = 0


def measure_quality(
    artifacts: Sequence[str], data: Questions, cutoffs: Sequence[int], *, device: str, threads: int | None
) -> dict[str, Any]:
    """The figures of one artifact or of two; an interruption or an error leaves those of the questions so far.

    `partial` then says why; nothing at all is measured when not even one question was scored, and the error goes on.
    """
    rerankers = [Reranker.load(artifact, device=device, threads=threads) for artifact in artifacts]
    scored = [Scored() for _ in artifacts]
    partial = None
    try:
        for question in tqdm(data.questions, unit="question", disable=None):
            found = [_score(reranker, question) for reranker in rerankers]  # all or none
            for so_far, (logits, seconds, truncated) in zip(scored, found, strict=True):
                so_far.scores.append(logits)
                so_far.seconds += seconds
                so_far.truncated += truncated
    except (KeyboardInterrupt, MemrerankError) as error:
        if not scored[-1].scores:
            raise
        partial = str(error) or "interrupted"
    questions = data.questions[: len(scored[-1].scores)]
    return {
        "partial": partial,
        "device": rerankers[0].device,
        "data": _describe(data, questions),
        "scoring": [{"seconds": each.seconds, "truncated_documents": each.truncated} for each in scored],
        "categories": _by_category(questions, [each.scores for each in scored], cutoffs),
    }


def _score(reranker: Reranker, question: Question) -> tuple[npt.NDArray[np.float64], float, int]:
    start = time.perf_counter()
    ranking = reranker.rerank(
        question.query, question.candidates.values(), context=question.context, time=question.time
    )
    seconds = time.perf_counter() - start
    logits = np.empty(len(question.candidates))
    for hit in ranking:
        logits[hit.index] = hit.logit
    return logits, seconds, len(ranking.truncated)


def _describe(data: Questions, questions: Sequence[Question]) -> dict[str, Any]:
    return {
        "reader": data.reader,
        "questions": len(questions),
        "of_questions": len(data.questions),
        "left_out": data.left_out,
        "documents": sum(len(question.candidates) for question in questions),
        "relevant": sum(len(question.relevance) for question in questions),
        "relevant_among_candidates": sum(len(q.relevance.keys() & q.candidates.keys()) for q in questions),
    }


def _by_category(questions: Sequence[Question], scores: Sequence[Scores], cutoffs: Sequence[int]) -> dict[str, Any]:
    """The figures over all questions and over each category."""
    names = sorted({question.category for question in questions if question.category is not None})
    members = {"all": np.ones(len(questions), bool)}
    for name in names if len(names) > 1 else []:
        members[name] = np.array([question.category == name for question in questions])
    figures = [evaluate(questions, each, cutoffs) for each in scores]
    stages = [name for name in questions[0].first_stage if all(name in each.first_stage for each in questions)]
    orders = {name: [question.first_stage[name] for question in questions] for name in stages}
    first = {name: evaluate(questions, order, cutoffs) for name, order in orders.items()}
    fused = {
        name: evaluate(questions, [fused_scores(*pair) for pair in zip(scores[0], order, strict=True)], cutoffs)
        for name, order in orders.items()
    }
    return {name: _category(figures, first, fused, scores, chosen) for name, chosen in members.items()}


def fused_scores(scores: npt.ArrayLike, first: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Scores that join the orders by `scores` and by `first`: their reciprocal ranks, weighted."""
    own, other = (1 / (RANK_CONSTANT + stats.rankdata(-np.asarray(each), "ordinal")) for each in (scores, first))
    return np.asarray(OWN_WEIGHT * own + other)


def _category(
    figures: Sequence[Figures],
    first: dict[str, Figures],
    fused: dict[str, Figures],
    scores: Sequence[Scores],
    chosen: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    own, *others = figures
    found: dict[str, Any] = {"questions": int(chosen.sum()), "artifact": summary(own, chosen)}
    found["first_stage"] = {name: summary(each, chosen) for name, each in first.items()}
    found["gain_over_first_stage"] = {name: gains(own, each, chosen) for name, each in first.items()}
    found["fused_with_first_stage"] = {name: summary(each, chosen) for name, each in fused.items()}
    found["gain_of_fusing"] = {name: gains(each, own, chosen) for name, each in fused.items()}
    if others:
        one, other = ([logits for logits, keep in zip(each, chosen, strict=True) if keep] for each in scores)
        found["against"] = summary(others[0], chosen)
        found["gain_over_against"] = gains(own, others[0], chosen)
        found["agreement_with_against"] = agreement(one, other)
    return found
