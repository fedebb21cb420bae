"""Questions of a LoCoMo folder: memories_<conversation>.jsonl, and queries.jsonl with the candidates of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrerank import Memory
from memrerank.memory import as_memory
from memrerank_bench.lines import parse_rows, text_of, texts_of
from memrerank_bench.questions import Question, Questions

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
UNANSWERABLE = CATEGORIES[5]

Memories = Mapping[str, Memory]


def read_locomo(folder: Path, *, answerable_only: bool = True) -> Questions:
    """The questions in the order of the file, without the adversarial ones unless all are asked for.

    A memory's text is followed by the caption of the image that was shared with it. The orders to compare with are that
    of the candidates (reciprocal rank fusion) and that of their BM25 scores.
    """
    memories = {path.stem.removeprefix("memories_"): _memories(path) for path in folder.glob("memories_*.jsonl")}
    read = parse_rows(folder / "queries.jsonl", lambda row: _question(row, memories), "question")
    kept = [question for question in read if not (answerable_only and question.category == UNANSWERABLE)]
    judged = tuple(question for question in kept if question.relevance)
    return Questions("locomo", judged, left_out=len(kept) - len(judged))


def _question(row: Mapping[str, Any], memories: Mapping[str, Memories]) -> Question:
    if row["conv"] not in memories:
        raise ValueError(f"there is no memories_{row['conv']}.jsonl beside it")
    conversation, ids = memories[row["conv"]], [candidate[0] for candidate in row["cands"]]
    if unknown := [name for name in ids if name not in conversation]:
        raise ValueError(f"its candidate {unknown[0]!r} is not in memories_{row['conv']}.jsonl")
    if len(set(ids)) < len(ids):
        raise ValueError("it names a candidate twice")
    if row["cat"] not in CATEGORIES:
        raise ValueError(f"its category is {row['cat']!r}, and one of 1 to 5 was expected")
    return Question(
        id=text_of(row, "qid"),
        query=text_of(row, "query"),
        candidates={name: conversation[name] for name in ids},
        relevance=dict.fromkeys(texts_of(row, "gold"), 1),
        first_stage={"rrf": [-float(rank) for rank in range(len(ids))], "bm25": [float(c[3]) for c in row["cands"]]},
        category=CATEGORIES[row["cat"]],
    )


def _memories(path: Path) -> Memories:
    return dict(parse_rows(path, _memory, "memory"))


def _memory(row: Mapping[str, Any]) -> tuple[str, Memory]:
    text = text_of(row, "text")
    if row.get("caption"):
        text = f"{text} ({text_of(row, 'caption')})"
    return text_of(row, "id"), as_memory(Memory(text, row.get("iso"), row.get("speaker")), "the memory")
