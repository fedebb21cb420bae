"""Questions of a LoCoMo folder with their candidates. Non-commercial data: to measure, never to train."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groups import RENDERING
from memrerank.memory import Memory
from memrerank.template import render_memory


@dataclass(frozen=True)
class Query:
    """A question with its candidates in the order of the fused list; `gold` counts also those not among them."""

    text: str
    documents: tuple[str, ...]
    relevant: tuple[bool, ...]
    gold: int
    bm25: tuple[float, ...]
    category: int


ANSWERABLE = 4
"""The highest category whose questions the conversation answers; 5 is adversarial."""


def read_queries(folder: Path, sample: int | None = None, highest: int = ANSWERABLE) -> list[Query]:
    """The questions of the categories up to `highest`, or `sample` of them."""
    memories = {path.stem.removeprefix("memories_"): _memories(path) for path in folder.glob("memories_*.jsonl")}
    rows = [row for row in _lines(folder / "queries.jsonl") if row["cat"] <= highest]
    if sample is not None:
        rows = random.Random(0).sample(rows, sample)
    return [_query(row, memories[row["conv"]]) for row in rows]


def _query(row: dict[str, Any], memories: dict[str, str]) -> Query:
    ids = [candidate[0] for candidate in row["cands"]]
    return Query(
        text=row["query"],
        documents=tuple(memories[i] for i in ids),
        relevant=tuple(i in row["gold"] for i in ids),
        gold=len(row["gold"]),
        bm25=tuple(candidate[3] for candidate in row["cands"]),
        category=row["cat"],
    )


def _memories(path: Path) -> dict[str, str]:
    """Turns as the runtime renders them; the caption of a shared image follows the text."""
    found = {}
    for row in _lines(path):
        text = f"{row['text']} ({row['caption']})" if row.get("caption") else row["text"]
        found[row["id"]] = render_memory(Memory(text, time=row["iso"], speaker=row["speaker"]), RENDERING)
    return found


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
