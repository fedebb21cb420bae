"""Questions on written conversations, with names, dates and order drawn at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conversations import Conversation, Line, Question, cast, conversations_aside
from groups import Group, Turn, group
from nearest import nearness
from split import part_of

_NAME = re.compile(r"\{[ab]\}")
NEAREST = 16
"""How many lines of its own conversation, the nearest, a question always brings as negatives to choose from."""

FURTHER = 8
"""How many of the others of its own."""

STRANGERS = 5
"""How many of other conversations."""

NEAR = 60
"""From how many of the nearest lines of other conversations they are drawn."""

LONG_KINDS = ("long", "chat")
"""What the names of long conversations begin with among those that only measure."""


@dataclass(frozen=True)
class Asked:
    """A question on a conversation, with other lines from the nearest on: the conversation's own, and strangers'."""

    conversation: Conversation
    question: Question
    own: list[Line]
    strangers: list[Line]


class Scenes:
    """Questions on conversations."""

    def __init__(self, base: Path, found: Sequence[Conversation]) -> None:
        questions = [(number, each) for number, talk in enumerate(found) for each in talk.questions]
        lines = [line for talk in found for line in talk.lines]
        owners = np.repeat(np.arange(len(found)), [len(talk.lines) for talk in found])
        found_near = nearness(base, [_bare(each.text) for _, each in questions], [_bare(line.text) for line in lines])
        self.asked = []
        for (number, question), near in zip(questions, found_near, strict=True):
            gold = [found[number].lines[i] for i in question.gold]
            own = _nearest(near, np.flatnonzero(owners == number), len(found[number].lines))
            strangers = _nearest(near, np.flatnonzero(owners != number), NEAR)
            others = [lines[i] for i in own if lines[i] not in gold]
            self.asked.append(Asked(found[number], question, others, [lines[i] for i in strangers]))

    def draw(self, rng: random.Random) -> Group:
        """A question drawn at random with the lines that answer it and others, from which the hardest are picked later.

        One of the answers said by the other person is a negative where the question names one of them; so are lines of
        strangers, some of them said by the other person, as what strangers say may answer a question on this one.
        """
        asked = rng.choice(self.asked)
        players = cast(rng)
        gold = [asked.conversation.lines[i] for i in asked.question.gold]
        negatives = []
        if len(set(_NAME.findall(asked.question.text))) == 1:
            negatives.append(players.swapped().play(rng.choice(gold)))
        for line in _some(rng, asked.strangers, STRANGERS):
            side = players if rng.random() < 0.5 else players.swapped()
            negatives.append(side.play(Line(line.who, line.text, rng.randint(0, 400))))
        own = asked.own[:NEAREST] + _some(rng, asked.own[NEAREST:], FURTHER)
        negatives += [players.play(line) for line in own]
        positives = [players.play(line) for line in gold]
        return group(Turn(players.fill(asked.question.text)), [], positives, negatives, "scenes")


def _some(rng: random.Random, lines: list[Line], count: int) -> list[Line]:
    return rng.sample(lines, min(len(lines), count))


def _nearest(near: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """The `count` numbers in `among` for which `near` is highest, from the highest on."""
    if len(among) > count:
        among = among[np.argpartition(-near[among], count)[:count]]
    return among[np.argsort(-near[among], kind="stable")]


def aside_groups(part: str, documents: int = 50) -> list[Group]:
    """Every question on the conversations of `part` that only measure: all lines of its own, some of the others'.

    The others' fill up to `documents`; a group whose own lines are as many needs none. Its source is `short`,
    `long` or `chat`.
    """
    found = [each for each in conversations_aside() if part_of(f"conversation {each.name}") == part]
    return [
        _aside(found, conversation, question, documents)
        for conversation in found
        for question in conversation.questions
    ]


def _aside(found: list[Conversation], conversation: Conversation, question: Question, documents: int) -> Group:
    rng = random.Random(question.text)
    players = cast(rng)
    turns = [players.play(line) for line in conversation.lines]
    strangers = [line for other in found if other is not conversation for line in other.lines]
    positives = [turns[i] for i in question.gold]
    negatives = [turn for i, turn in enumerate(turns) if i not in question.gold]
    missing = max(0, documents - len(turns))
    for line in rng.sample(strangers, missing):
        negatives.append(players.play(Line(line.who, line.text, rng.randint(0, 400))))
    kind = next((kind for kind in LONG_KINDS if conversation.name.startswith(f"{kind} ")), "short")
    return group(Turn(players.fill(question.text)), [], positives, negatives, kind)


def _bare(text: str) -> str:
    """`text` without the names, which differ from draw to draw."""
    return _NAME.sub("", text)
