"""The rows of the data folder, dressed as memories: dates, speakers, and near-duplicates by another speaker."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from groups import Group, Turn, group
from slots import other, phrases
from times import session_times
from voices import voiced

LEFT_OUT = frozenset({"friendsqa"})
"""Sources that no shipped model is trained on."""

SPOKEN = frozenset({"sgd", "molweni", "qmsum"})
"""Sources whose passages read `Speaker: text`."""

TOLD = frozenset({"canard", "fairytaleqa", "qadiscourse", "qamr", "squad", "wikiwhy"})
"""Sources with passages about named people, who may be made to speak."""

LONG = frozenset({"fairytaleqa", "nq", "squad", "timeqa"})
"""Sources whose passages are paragraphs, which cost several times as much as what people say."""

DRESSED = 0.5
"""How many of the rows get speakers, other tellers and near-duplicates; the others get dates alone."""

LONG_DOCUMENTS = 4
"""How many documents a query of such a source has."""

SPEAKER = re.compile(r"^([\w#][\w .'#-]{0,29}): (?=\S)")
FIRST_PERSON = re.compile(r"\b(i|i'm|i've|my|me|we|our)\b", re.IGNORECASE)
MENTIONS = (
    "According to {n}, {q}",
    "{q} Ask {n}.",
    "What did {n} say: {q}",
    "{n} was asked: {q}",
    "In {n}'s words, {q}",
)


@dataclass(frozen=True)
class Row:
    """A query with the ids of the passages that answer it and of passages that do not, hardest first."""

    query: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    source: str


def read_passages(folder: Path) -> list[str]:
    """The passages by id."""
    return list(_lines(folder / "passages.jsonl.gz"))


def read_rows(folder: Path, part: str) -> list[Row]:
    """The rows of `part`, train or valid, without the sources that are left out."""
    rows = _lines(folder / f"{part}.jsonl.gz")
    return [
        Row(row["q"], tuple(row["pos"]), tuple(i for i in row["neg"] if i not in row["pos"]), row["src"])
        for row in rows
        if row["src"] not in LEFT_OUT
    ]


def _lines(path: Path) -> Iterator[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def dress(row: Row, passages: list[str], rng: random.Random, documents: int = 6) -> Group:
    """A row as a question on memories: with dates mostly, half the time with two speakers, with at most `documents`."""
    documents = min(documents, LONG_DOCUMENTS) if row.source in LONG else documents
    chosen = rng.sample(row.positives, min(len(row.positives), 2))
    hard = row.negatives[: documents + 1]
    rejected = rng.sample(hard, min(len(hard), documents - len(chosen)))
    texts = [passages[i] for i in chosen], [passages[i] for i in rejected]
    dressed = _spoken if row.source in SPOKEN else _voiced
    query, positives, negatives = (dressed if rng.random() < DRESSED else _bare)(row, *texts, rng)
    positives, negatives = _dated(positives, negatives, rng)
    return group(Turn(query), _chatter(rng), positives, negatives[: documents - len(positives)], row.source)


def _bare(row: Row, positive: list[str], negative: list[str], rng: random.Random) -> tuple[str, list[Turn], list[Turn]]:
    """The row as it is; what somebody says keeps its speaker."""
    turn = _parsed if row.source in SPOKEN else Turn
    return row.query, [turn(text) for text in positive], [turn(text) for text in negative]


def _spoken(
    row: Row, positive: list[str], negative: list[str], rng: random.Random
) -> tuple[str, list[Turn], list[Turn]]:
    """Dialogue turns keep their speakers; where the query names one, others say the same."""
    positives, negatives = [_parsed(text) for text in positive], [_parsed(text) for text in negative]
    named = [turn for turn in positives if turn.speaker and turn.speaker.lower() in row.query.lower()]
    if named and rng.random() < 0.4:
        impostor = other(rng, "name", str(named[0].speaker))
        negatives.insert(0, Turn(named[0].text, None, impostor))
    return row.query, positives, negatives


def _voiced(
    row: Row, positive: list[str], negative: list[str], rng: random.Random
) -> tuple[str, list[Turn], list[Turn]]:
    """Other passages become what one of two people says; the query may name who."""
    told = row.source in TOLD and rng.random() < 0.25 and _told(row, positive, negative, rng)
    if told:
        return told
    personal = bool(FIRST_PERSON.search(positive[0]))
    if rng.random() > (0.9 if personal else 0.55):
        return row.query, [Turn(text) for text in positive], [Turn(text) for text in negative]
    first = rng.choice(phrases("slots.toml")["name"])
    second = other(rng, "name", first)
    positives = [Turn(text, None, first) for text in positive]
    negatives = [Turn(text, None, first if rng.random() < 0.6 else second) for text in negative]
    if rng.random() > (0.5 if personal else 0.2):
        return row.query, positives, negatives
    negatives.insert(0, Turn(positive[0], None, second))
    return rng.choice(MENTIONS).format(n=first, q=row.query), positives, negatives


def _told(
    row: Row, positive: list[str], negative: list[str], rng: random.Random
) -> tuple[str, list[Turn], list[Turn]] | None:
    """A question about a named person, who is made the speaker; others say the same or talk about it."""
    names = phrases("slots.toml")["name"]
    first = rng.choice(names)
    row_told = voiced(row.query, positive, negative, first)
    if row_told is None:
        return None
    second = other(rng, "name", first)
    negatives = [Turn(text, None, first if rng.random() < 0.7 else second) for text in row_told.negatives]
    if rng.random() < 0.6:
        negatives.insert(0, Turn(row_told.positives[0], None, second))
    return row_told.query, [Turn(text, None, first) for text in row_told.positives], negatives


def _dated(positives: list[Turn], negatives: list[Turn], rng: random.Random) -> tuple[list[Turn], list[Turn]]:
    if rng.random() < 0.2:
        return positives, negatives
    times = session_times(rng, rng.choice([1, 3, 6, 10]))
    return [_at(turn, times, rng) for turn in positives], [_at(turn, times, rng) for turn in negatives]


def _at(turn: Turn, times: list[datetime], rng: random.Random) -> Turn:
    return Turn(turn.text, rng.choice(times), turn.speaker)


def _parsed(text: str) -> Turn:
    found = SPEAKER.match(text)
    return Turn(text[found.end() :], None, found[1]) if found else Turn(text)


def _chatter(rng: random.Random) -> list[Turn]:
    """Now and then turns before the question that have nothing to do with it."""
    if rng.random() > 0.05:
        return []
    name = rng.choice(phrases("slots.toml")["name"])
    lines = [line.replace("{o}", name) for line in rng.sample(phrases("chat.toml")["small"], rng.randint(1, 2))]
    return [Turn(line, None, other(rng, "name", name)) for line in lines]
