"""Questions on written conversations, with names, dates and order drawn at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from conversations import Conversation, Line, Question, cast, conversations_aside
from groups import Group, Turn, group
from nearest import nearest
from split import part_of

_NAME = re.compile(r"\{[ab]\}")
DOCUMENTS = 12
STRANGERS = 4
"""How many of the documents are lines of other conversations."""


class Scenes:
    """Conversations, and for each question the lines of all of them from the nearest to the farthest."""

    def __init__(self, base: Path, found: Sequence[Conversation]) -> None:
        self.asked = [(conversation, question) for conversation in found for question in conversation.questions]
        lines = [(conversation, line) for conversation in found for line in conversation.lines]
        order = nearest(base, [_bare(each.text) for _, each in self.asked], [_bare(each.text) for _, each in lines])
        self.near = [[lines[i] for i in row] for row in order]

    def draw(self, rng: random.Random) -> Group:
        """A question on a conversation, drawn at random."""
        k = rng.randrange(len(self.asked))
        conversation, question = self.asked[k]
        own = [line for other, line in self.near[k] if other is conversation]
        strangers = [line for other, line in self.near[k] if other is not conversation]
        return _group(rng, conversation, question, own, strangers)


def _group(
    rng: random.Random, conversation: Conversation, question: Question, near: list[Line], strangers: list[Line]
) -> Group:
    """The question with the lines that answer it and others of the conversation, half of them near the question.

    One of the answers said by the other person is a negative where the question is on one of them; so are lines of
    strangers, half of them said by the other person, as what strangers say may answer a question on this one.
    """
    players = cast(rng)
    gold = [conversation.lines[i] for i in question.gold]
    others = [line for line in conversation.lines if line not in gold]
    count = DOCUMENTS - STRANGERS - len(gold)
    hard = [line for line in near if line in others][: count // 2]
    rest = [line for line in others if line not in hard]
    chosen = hard + rng.sample(rest, min(len(rest), count - len(hard)))
    negatives = [players.play(line) for line in chosen]
    if not {"{a}", "{b}"} <= set(_NAME.findall(question.text)):
        negatives.append(players.swapped().play(rng.choice(gold)))
    for line in rng.sample(strangers, min(len(strangers), STRANGERS)):
        side = players if rng.random() < 0.5 else players.swapped()
        negatives.append(side.play(Line(line.who, line.text, rng.randint(0, 400))))
    positives = [players.play(line) for line in gold]
    return group(Turn(players.fill(question.text)), [], positives, negatives, "scenes")


def aside_groups(part: str, documents: int = 50) -> list[Group]:
    """Every question on the conversations of `part` that only measure: all lines of its own, some of the others'."""
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
    for line in rng.sample(strangers, documents - len(turns)):
        negatives.append(players.play(Line(line.who, line.text, rng.randint(0, 400))))
    return group(Turn(players.fill(question.text)), [], positives, negatives, "scenes")


def _bare(text: str) -> str:
    """`text` without the names, which differ from draw to draw."""
    return _NAME.sub("", text)
