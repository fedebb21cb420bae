"""Written conversations: whole dialogues with questions, their names, dates and order drawn at random."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache

from groups import Group, Turn, group
from slots import FOLDER, other, phrases

HELD_OUT = frozenset({"ferry", "recovery", "climbing", "market stall", "astronomy", "hard year", "paintings"})
"""Conversations that only measure."""

_LINE = re.compile(r"([ab])(?: @(\w+))?: (.+)")


@dataclass(frozen=True)
class Line:
    """What `who` ("a" or "b") says in a session so many days after the first."""

    who: str
    text: str
    day: int


@dataclass
class Conversation:
    """Lines, and questions with the numbers of the lines that answer."""

    name: str
    lines: list[Line] = field(default_factory=list)
    questions: list[tuple[str, list[int]]] = field(default_factory=list)


@dataclass(frozen=True)
class Cast:
    """Who plays a and b, and when the first session is."""

    a: str
    b: str
    start: datetime

    def play(self, line: Line, text: str | None = None) -> Turn:
        """A line as it is said."""
        minutes = line.day % 7 * 47
        said = self.start + timedelta(days=line.day, minutes=minutes)
        return Turn(self.fill(text or line.text), said, self.a if line.who == "a" else self.b)

    def fill(self, text: str) -> str:
        """`text` with the names."""
        return text.replace("{a}", self.a).replace("{b}", self.b)

    def swapped(self) -> Cast:
        """The same with the parts changed."""
        return Cast(self.b, self.a, self.start)


@cache
def conversations(held_out: bool) -> list[Conversation]:
    """The conversations to train on, or those that only measure."""
    parts = (FOLDER / "scenes.txt").read_text(encoding="utf-8").split("\n== ")[1:]
    found = [_parsed(part) for part in parts]
    return [conversation for conversation in found if (conversation.name in HELD_OUT) == held_out]


def _parsed(text: str) -> Conversation:
    name, *lines = text.strip().split("\n")
    conversation, day = Conversation(name), 0
    labels: dict[str, int] = {}
    for line in lines:
        if line.startswith("= "):
            day += int(line[2:])
        elif line.startswith("? "):
            question, *marks = line[2:].split("@")
            numbers = [labels[mark.strip()] for mark in marks] or [len(conversation.lines) - 1]
            conversation.questions.append((question.strip(), numbers))
        elif found := _LINE.fullmatch(line):
            labels[found[2]] = len(conversation.lines)
            conversation.lines.append(Line(found[1], found[3], day))
        else:
            raise ValueError(f"scenes.txt has the line {line!r}; '= N', '? question' or 'a: text' was expected.")
    return conversation


def cast(rng: random.Random) -> Cast:
    """Two people and a first day."""
    first = rng.choice(phrases("slots.toml")["name"])
    second = other(rng, "name", first)
    day = datetime(rng.randint(2016, 2026), rng.randint(1, 12), rng.randint(1, 28), rng.randint(7, 20))
    return Cast(first, second, day + timedelta(minutes=rng.randint(0, 59)))


def scene_group(rng: random.Random, documents: int = 8, held_out: bool = False) -> Group:
    """A question on a conversation drawn at random."""
    conversation = rng.choice(conversations(held_out))
    return question_group(rng, conversation, rng.choice(conversation.questions), documents, held_out)


def question_group(
    rng: random.Random, conversation: Conversation, asked: tuple[str, list[int]], documents: int, held_out: bool
) -> Group:
    """`asked` with the lines that answer it, others, and those of other conversations of the same two people."""
    players = cast(rng)
    question, gold = asked
    positives = [players.play(conversation.lines[i]) for i in gold]
    others = [players.play(line) for i, line in enumerate(conversation.lines) if i not in gold]
    negatives = rng.sample(others, min(len(others), documents - len(gold) - 3))
    negatives.append(players.swapped().play(conversation.lines[gold[0]]))
    strangers = [each for each in conversations(held_out) if each is not conversation]
    while len(negatives) + len(gold) < documents:
        side = players if rng.random() < 0.5 else players.swapped()
        line = rng.choice(rng.choice(strangers).lines)
        negatives.append(side.play(Line(line.who, line.text, rng.randint(0, 200))))
    return group(Turn(players.fill(question)), [], positives, negatives, "scenes")


def held_out_groups(documents: int = 30) -> list[Group]:
    """Every question on the conversations that only measure."""
    return [
        question_group(random.Random(asked[0]), conversation, asked, documents, True)
        for conversation in conversations(True)
        for asked in conversation.questions
    ]
