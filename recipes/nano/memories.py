"""Questions on made-up dialogues, from templates: turns that answer and turns that nearly do.

What the public sources lack: days said relative to the session, near-duplicates with another person or value,
questions with several answers, pronouns that the dialogue before the question resolves, answers that need a step of
common sense.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from groups import Group, group
from slots import Event, Theme, events, other, themes
from stage import Scene, dressed_question, fill_up, pick_negatives, scene
from times import future, past, session_times, span


def memory_group(rng: random.Random, documents: int = 8) -> Group:
    """A question on a made-up dialogue with up to `documents` turns."""
    play = scene(rng)
    kinds = list(KINDS)
    kind = rng.choices(kinds, [weight for weight, _ in KINDS.values()])[0]
    KINDS[kind][1](play)
    positives = rng.sample(play.positives, min(3, len(play.positives)))
    fill_up(play, documents + 4)
    negatives = pick_negatives(play, documents - len(positives))
    question, context = dressed_question(play)
    return group(question, context, positives, negatives, f"memory-{kind}")


def happened(play: Scene) -> tuple[Event, str, str]:
    """An event with a way to say that it was done and to ask whether."""
    event = play.rng.choice(events())
    play.values["topic"] = event.topic
    return event, play.rng.choice(event.did), play.rng.choice(event.do)


def swaps(play: Scene, event: Event, did: str, with_value: bool) -> None:
    """Near-duplicates: another person, another value, somebody's relative, talk on the topic that says nothing."""
    rng, said = play.rng, play.times[-1]
    fresh = {event.slot: other(rng, event.slot, play.values[event.slot])}
    when = past(rng, said)[0]
    play.distract(play.m, f"I {did} {when}", **(fresh if rng.random() < 0.4 else {}))
    play.distract(play.m, play.line("react"))
    play.distract(play.n, play.line("muse"))
    if with_value:
        for _ in range(2):
            value = other(rng, event.slot, play.values[event.slot])
            play.distract(play.n, f"I {rng.choice(event.did)} {past(rng, said)[0]}", **{event.slot: value})
    play.distract(rng.choice([play.n, play.m]), play.line("wish"), do=rng.choice(event.do))
    play.distract(play.m, play.line("react" if rng.random() < 0.6 else "muse"))
    if rng.random() < 0.5:
        theirs = did.replace(" my ", " their ")
        play.distract(play.n, f"my {play.line_of('relative')} {theirs} {when}", **fresh)


def when(play: Scene) -> None:
    """When did Nora do it: answered by a day relative to the session."""
    event, did, do = happened(play)
    play.ask(play.line("when_ask"), do=do)
    said = play.rng.choice(play.times)
    told = past(play.rng, said)[0]
    core = play.rng.choice([f"I {did} {told}", f"{told} I {did}", f"I {did} {told}", f"I finally {did} {told}"])
    play.answer(play.n, core, said)
    named = f"{{{event.slot}}}" in do
    swaps(play, event, did, with_value=named)
    if not named:
        play.values["asked_slot"] = event.slot
    future_of_it = play.line("plan")
    play.distract(play.n, future_of_it, do=do, future=future(play.rng, said))


def relative(play: Scene) -> None:
    """When did Nora's sister do it."""
    event, did, do = happened(play)
    who = play.line_of("relative")
    play.ask(play.rng.choice(["When did {n}'s " + who + " {do}?", "What did {n}'s " + who + " do?"]), do=do)
    told = past(play.rng, play.times[0])[0]
    play.answer(
        play.n, f"my {who} {did} {told}".replace(" my ", " their ", 1) if " my " in did else f"my {who} {did} {told}"
    )
    play.distract(play.n, f"I {did} {told}")
    play.distract(play.m, f"my {who} {did} {told}")
    play.distract(play.n, f"I talked with my {who} on the phone")
    swaps(play, event, did, with_value=False)
    play.negatives = [
        turn for turn in play.negatives if turn.speaker == play.m or f"y {who}" not in turn.text or "phone" in turn.text
    ]


def what(play: Scene) -> None:
    """What did Nora buy: answered by a value."""
    event, did, _ = happened(play)
    play.ask(play.rng.choice(event.ask))
    play.values["asked_slot"] = event.slot
    tail = f" {past(play.rng, play.times[-1])[0]}" if play.rng.random() < 0.5 else ""
    play.answer(play.n, f"I {did}{tail}")
    swaps(play, event, did, with_value=False)
    play.negatives = [
        turn for turn in play.negatives if play.values[event.slot] not in turn.text or turn.speaker == play.m
    ]


def why(play: Scene) -> None:
    """Why did Nora do it: answered by the reason, not by the event alone."""
    event, did, do = happened(play)
    play.ask(play.rng.choice(["Why did {n} {do}?", "What made {n} {do}?", "What was {n}'s reason to {do}?"]), do=do)
    reason = play.rng.choice(event.why)
    play.answer(play.n, play.line("because"), did=did, why=reason)
    play.distract(play.n, f"I {did} {past(play.rng, play.times[-1])[0]}")
    play.distract(play.m, play.line("because"), did=did, why=play.rng.choice(event.why))
    stranger = play.rng.choice([e for e in events() if e.slot != event.slot])
    play.distract(play.n, play.line("because"), did=stranger.did[0], why=stranger.why[0], topic=stranger.topic)
    swaps(play, event, did, with_value=False)


def feel(play: Scene) -> None:
    """How does Nora feel about it."""
    event, did, _ = happened(play)
    play.ask(play.line("feel_ask"), topic=event.topic.replace("my ", "their "))
    play.answer(play.n, play.line("feel"))
    play.distract(play.m, play.line("feel"), feeling=play.line_of("feeling"))
    stranger = play.rng.choice([e for e in events() if e.slot != event.slot])
    play.distract(play.n, play.line("feel"), topic=stranger.topic, feeling=play.line_of("feeling"))
    play.distract(play.n, f"I {did} {past(play.rng, play.times[-1])[0]}")
    swaps(play, event, did, with_value=False)


def plan(play: Scene) -> None:
    """When will Nora do it, or what does she plan."""
    event, did, do = happened(play)
    goal = play.rng.random() < 0.5
    play.ask(play.line("goal_ask" if goal else "plan_ask"), do=do)
    coming = future(play.rng, play.times[-1])
    play.answer(play.n, play.line("plan"), do=do, future=coming)
    play.distract(play.m, play.line("plan"), do=do, future=coming)
    play.distract(play.n, f"I {did} {past(play.rng, play.times[-1])[0]}")
    swaps(play, event, did, with_value=False)
    play.negatives = [
        turn for turn in play.negatives if "I'd love to" not in turn.text and "telling myself" not in turn.text
    ]


def dated(play: Scene) -> None:
    """What did Nora do in May 2023: the date of the session answers together with what is said."""
    rng = play.rng
    said = rng.choice(play.times)
    phrase, day = past(rng, said, longest=2)
    play.ask(play.line("dated_ask"), span=span(rng, day))
    play.values["asked_slot"] = "any"
    _, did, _ = happened(play)
    play.answer(play.n, f"I {did} {phrase}", said)
    play.distract(play.m, f"I {rng.choice(rng.choice(events()).did)} {phrase}", said)
    play.distract(play.m, play.line("react"), said)
    for _ in range(5):
        away = rng.choice(
            [time for time in [*play.times, *session_times(rng, 3)] if abs((time - said).days) > 70]
            or session_times(rng, 3)
        )
        if (away.year, away.month) != (day.year, day.month) and abs((away - day).days) > 40:
            play.distract(
                rng.choice([play.n, play.n, play.m]), f"I {rng.choice(rng.choice(events()).did)} {phrase}", away
            )
    play.distract(play.m, play.line("small"), said)


def company(play: Scene) -> None:
    """Who came along."""
    event, did, do = happened(play)
    play.ask(play.line("who_ask"), do=do, did=did)
    play.values["asked_slot"] = event.slot
    friend = play.line_of("company")
    play.answer(
        play.n,
        play.rng.choice([f"I {did} with {friend}", f"{friend} came along when I {did}", f"{friend} and I {did}"]),
    )
    play.distract(play.m, f"I {did} with {play.line_of('company')}")
    play.distract(play.n, f"I talked to {friend} about it")
    play.distract(play.n, f"I {did} on my own")
    swaps(play, event, did, with_value=False)
    play.negatives = [
        turn for turn in play.negatives if turn.speaker == play.m or "y " not in turn.text.split("I ", 1)[0]
    ]


def trait(play: Scene) -> None:
    """What hobbies does Nora have: every statement of the trait answers."""
    theme = play.rng.choice(themes("trait"))
    play.ask(play.rng.choice(theme.ask))
    play.values["asked_slot"] = theme.slot
    used: list[str] = []
    for statement in play.rng.sample(theme.says, min(len(theme.says), play.rng.randint(1, 4))):
        used.append(other(play.rng, theme.slot, *used))
        play.answer(play.n, statement, **{theme.slot: used[-1]})
    stand_in(play, theme, "trait")
    topic = "{" + theme.slot + "}"
    play.distract(play.m, play.line("react"), topic=topic)
    play.distract(play.m, play.line("muse"), topic=topic)
    play.distract(play.m, play.rng.choice(theme.says), **{theme.slot: used[0]})


def hint(play: Scene) -> None:
    """Would Nora enjoy it: turns from which an answer follows."""
    theme = play.rng.choice(themes("hint"))
    play.ask(play.rng.choice(theme.ask))
    for statement in play.rng.sample(theme.says, min(len(theme.says), 2)):
        speaker = play.m if "{n}" in statement else play.n
        play.answer(speaker, statement)
    stand_in(play, theme, "hint")


def stand_in(play: Scene, theme: Theme, name: str) -> None:
    """The other person says what would answer; the person asked about says other things."""
    for statement in play.rng.sample(theme.says, min(len(theme.says), 2)):
        if "{n}" not in statement:
            play.distract(play.m, statement, **({theme.slot: play.line_of(theme.slot)} if theme.slot else {}))
    for _ in range(4):
        stranger = play.rng.choice(themes(name))
        if stranger.slot != theme.slot or (not theme.slot and stranger is not theme):
            says = play.rng.choice(stranger.says)
            play.distract(play.m if "{n}" in says else play.n, says)
    play.distract(play.m, play.line("small"))


KINDS: dict[str, tuple[int, Callable[[Scene], None]]] = {
    "when": (22, when),
    "what": (18, what),
    "why": (6, why),
    "feel": (5, feel),
    "plan": (6, plan),
    "dated": (6, dated),
    "company": (4, company),
    "relative": (4, relative),
    "trait": (20, trait),
    "hint": (13, hint),
}
