"""A made-up dialogue in the making: two people, when they talk, what they say, and the question that is asked."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime

from groups import Turn
from slots import Event, events, fill, other, phrases, sentence, values_for
from times import past, session_times


@dataclass
class Scene:
    """Two people, when they talk, and what they say: turns that answer the question and turns that do not."""

    rng: random.Random
    values: dict[str, str]
    times: list[datetime]
    question: str = ""
    positives: list[Turn] = field(default_factory=list)
    negatives: list[Turn] = field(default_factory=list)

    @property
    def n(self) -> str:
        """The person asked about."""
        return self.values["n"]

    @property
    def m(self) -> str:
        """The other person."""
        return self.values["m"]

    def line(self, pool: str) -> str:
        """A phrase of the pool in chat.toml."""
        return self.rng.choice(phrases("chat.toml")[pool])

    def turn(self, speaker: str, core: str, time: datetime | None = None, **values: str) -> Turn:
        """`core` as `speaker` says it, with what people say around it."""
        listener = self.m if speaker == self.n else self.n
        filled = self.values | values | {"o": listener, "my": "my"}
        before = [self.line("opener")] if self.rng.random() < 0.4 else []
        after = [self.line("tail") for _ in range(self.rng.choice([0, 0, 1, 1, 2]))]
        if self.rng.random() < 0.35:
            (before if self.rng.random() < 0.4 else after).append(self.aside())
        if self.rng.random() < 0.1:
            after.append(f"(photo: {self.line_of('photo')})")
        core = fill(core, filled)
        core = core if before and before[0][-1] in ",:" else sentence(core)
        text = fill(" ".join([*before, core if core[-1] in ".?!" else core + ".", *after]), filled)
        return Turn(text, time or self.rng.choice(self.times), speaker)

    def aside(self) -> str:
        """A sentence on another matter that answers no question of the scene."""
        event = self.rng.choice([e for e in events() if e.slot != self.values.get("asked_slot")])
        vague = self.values.get("asked_slot") == "any" or self.rng.random() < 0.5
        core = self.line("muse") if vague else "I " + self.rng.choice(event.did)
        return sentence(fill(core, values_for(self.rng, ("topic", event.topic), ("my", "my"))))

    def line_of(self, slot: str) -> str:
        """A value of a slot."""
        return self.rng.choice(phrases("slots.toml")[slot])

    def ask(self, text: str, **values: str) -> None:
        """Set the question."""
        self.question = sentence_question(fill(text, self.values | values | {"my": "their"}))

    def answer(self, speaker: str, core: str, time: datetime | None = None, **values: str) -> None:
        """Add a turn that answers."""
        self.positives.append(self.turn(speaker, core, time, **values))

    def distract(self, speaker: str, core: str, time: datetime | None = None, **values: str) -> None:
        """Add a turn that does not answer."""
        self.negatives.append(self.turn(speaker, core, time, **values))


def sentence_question(text: str) -> str:
    """A question as people type it."""
    return text[:1].upper() + text[1:]


def scene(rng: random.Random) -> Scene:
    """Two people and the times of their sessions."""
    first = rng.choice(phrases("slots.toml")["name"])
    second = other(rng, "name", first)
    values = values_for(rng, ("n", first), ("m", second))
    return Scene(rng, values, session_times(rng, rng.randint(4, 14)))


def pick_negatives(play: Scene, count: int) -> list[Turn]:
    """Hard ones first to `count`, with a chance for the easy ones behind them."""
    hard = play.negatives[: count + 4]
    play.rng.shuffle(hard)
    return hard[:count]


def fill_up(play: Scene, count: int) -> None:
    """Turns on other matters until there are `count` that do not answer."""
    taken = {turn.text for turn in play.positives}
    while len(play.negatives) < count:
        speaker = play.n if play.rng.random() < 0.6 else play.m
        pool = play.rng.choice(["small", "muse", "event"])
        event = play.rng.choice(events())
        core = "I " + play.rng.choice(event.did) if pool == "event" else play.line(pool)
        if pool == "event" and play.rng.random() < 0.5:
            core = f"{core} {past(play.rng, play.times[-1])[0]}"
        fresh = values_for(play.rng, ("n", play.n), ("m", play.m))
        turn = play.turn(speaker, core, None, **(fresh | {"topic": event.topic}))
        if turn.text not in taken and not (play.question and shares_answer(play, event, speaker)):
            play.negatives.append(turn)


def shares_answer(play: Scene, event: Event, speaker: str) -> bool:
    """Whether a chance event of the person asked about could answer the question too."""
    return speaker == play.n and play.values.get("asked_slot") in (event.slot, "any")


def dressed_question(play: Scene) -> tuple[Turn, list[Turn]]:
    """The question, at times with when it is asked, lower case, or a pronoun and the dialogue that resolves it."""
    rng, question, context = play.rng, play.question, []
    if rng.random() < 0.15 and play.n in question and play.m not in question:
        pronoun, whose = rng.choice([("she", "her"), ("he", "his"), ("they", "their")])
        question = question.replace(f"{play.n}'s", whose).replace(play.n, pronoun)
        question = (
            question.replace("does they", "do they").replace("is they", "are they").replace("has they", "have they")
        )
        asked = fill(play.line("context"), {"n": play.n})
        context = [Turn(asked, None, play.m if rng.random() < 0.7 else None)]
        if rng.random() < 0.4:
            context.insert(0, Turn(play.line("small").replace("{o}", play.n), None, play.m))
    if rng.random() < 0.1:
        question = question.lower().rstrip("?")
    asked_at = play.times[-1] if rng.random() < 0.1 else None
    return Turn(question[:1].upper() + question[1:] if rng.random() < 0.9 else question, asked_at), context
