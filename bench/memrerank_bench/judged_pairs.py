"""Questions of a PAIRS.jsonl: pairs with the same query, context and time are one question's candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from memrerank_bench.questions import Question, Questions
from memrerank_calibration.pairs import Pair, read_pairs

RELEVANT = 0.5
"""The least label of a relevant document."""


def read_judged_pairs(path: Path) -> Questions:
    """The questions with relevant and other documents. File order is no first stage; weights are unused."""
    by_question: dict[tuple[object, ...], list[Pair]] = defaultdict(list)
    for pair in read_pairs(path):
        by_question[pair.query, pair.context, pair.time].append(pair)
    questions = [_question(str(i), pairs) for i, pairs in enumerate(by_question.values())]
    judged = tuple(q for q in questions if 0 < len(q.relevance) < len(q.candidates))
    return Questions("pairs", judged, left_out=len(questions) - len(judged))


def _question(name: str, pairs: Sequence[Pair]) -> Question:
    first = pairs[0]
    return Question(
        id=name,
        query=first.query,
        candidates={str(i): pair.document for i, pair in enumerate(pairs)},
        relevance={str(i): 1 for i, pair in enumerate(pairs) if pair.label >= RELEVANT},
        first_stage={},
        context=first.context,
        time=first.time,
    )
