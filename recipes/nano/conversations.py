"""Written conversations of two people, {a} and {b}, with questions and the lines that answer them.

In a file, `== name` opens a conversation and `= N` a session N days after the one before; `a: text` or `a @label: text`
is said; `? question` is answered by the line above it, `? question @x @y` by the lines labelled x and y.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from groups import Turn
from slots import FOLDER, other, phrases

SCENES = FOLDER / "scenes"
ASIDE = SCENES / "aside.txt"
"""Conversations that only measure."""

_LINE = re.compile(r"([ab])(?: @(\w+))?: (.+)")


@dataclass(frozen=True)
class Line:
    """What `who` ("a" or "b") says in a session so many days after the first."""

    who: str
    text: str
    day: int


@dataclass(frozen=True)
class Question:
    """A question with the numbers of the lines that answer it."""

    text: str
    gold: tuple[int, ...]


@dataclass(frozen=True)
class Conversation:
    """Lines, and questions on them."""

    name: str
    lines: tuple[Line, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Cast:
    """Who plays a and b, and when the first session is."""

    a: str
    b: str
    start: datetime

    def play(self, line: Line) -> Turn:
        """A line as it is said."""
        minutes = line.day % 7 * 47
        said = self.start + timedelta(days=line.day, minutes=minutes)
        return Turn(self.fill(line.text), said, self.a if line.who == "a" else self.b)

    def fill(self, text: str) -> str:
        """`text` with the names."""
        return text.replace("{a}", self.a).replace("{b}", self.b)

    def swapped(self) -> Cast:
        """The same with the parts changed."""
        return Cast(self.b, self.a, self.start)


def conversations(*patterns: str) -> list[Conversation]:
    """The conversations to train on in the files whose names match one of `patterns`, or in all of them.

    Raises:
        ValueError: a pattern that no file matches.
    """
    found: dict[Path, None] = {}
    for pattern in patterns or ("*.txt",):
        paths = [path for path in sorted(SCENES.glob(pattern)) if path != ASIDE]
        if not paths:
            raise ValueError(f"No file in {SCENES} matches {pattern!r}.")
        found |= dict.fromkeys(paths)
    return [conversation for path in found for conversation in _read(path)]


@cache
def conversations_aside() -> list[Conversation]:
    """The conversations that only measure."""
    return _read(ASIDE)


def _read(path: Path) -> list[Conversation]:
    parts = ("\n" + path.read_text(encoding="utf-8")).split("\n== ")[1:]
    return [_parsed(part, path) for part in parts]


def _parsed(text: str, path: Path) -> Conversation:
    name, *rest = text.strip().split("\n")
    lines: list[Line] = []
    labels: dict[str, int] = {}
    asked: list[tuple[str, list[str], int]] = []
    day = 0
    for row in rest:
        if row.startswith("= "):
            day += int(row[2:])
        elif row.startswith("? "):
            question, *marks = row[2:].split("@")
            asked.append((question.strip(), [mark.strip() for mark in marks], len(lines) - 1))
        elif found := _LINE.fullmatch(row):
            if found[2]:
                labels[found[2]] = len(lines)
            lines.append(Line(found[1], found[3], day))
        else:
            raise ValueError(f"{path.name} has the line {row!r}; '= N', '? question' or 'a: text' was expected.")
    questions = [Question(text, tuple(labels[mark] for mark in marks) or (above,)) for text, marks, above in asked]
    return Conversation(name, tuple(lines), tuple(questions))


def cast(rng: random.Random) -> Cast:
    """Two people and a first day."""
    first = rng.choice(phrases("slots.toml")["name"])
    second = other(rng, "name", first)
    day = datetime(rng.randint(2016, 2026), rng.randint(1, 12), rng.randint(1, 28), rng.randint(7, 20))
    return Cast(first, second, day + timedelta(minutes=rng.randint(0, 59)))
