"""Passages about a named person as that person would say them, so that questions that name a speaker find "I".

"Why did Gore leave Boston?" with "Gore's father left Boston with the army." becomes "Why did Nora leave Boston?"
with "Nora: My father left Boston with the army." The grammar is rough; what it teaches is whose "I" it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"([A-Z][a-zà-ü]+(?: [A-Z][\w'-]+)*)"
_AUXILIARY = "did|does|do|was|is|were|are|has|had|have|can|could|would|will|should|might|when|that|because|before|after"
_SUBJECT = re.compile(rf"\b(?:{_AUXILIARY}) {_NAME}")
_NOT_NAMES = {"The", "An", "Her", "His", "Its", "Their", "People", "British", "American", "French", "German"}
_PRONOUNS = re.compile(r"\b(he|she)\b", re.IGNORECASE)
_SWAPS = [
    (re.compile(r"\b(himself|herself)\b", re.IGNORECASE), "myself"),
    (re.compile(r"\b(he|she)'s\b", re.IGNORECASE), "I'm"),
    (re.compile(r"\b(he|she)\b", re.IGNORECASE), "I"),
    (re.compile(r"\bhis\b|\bher(?= [a-z])", re.IGNORECASE), "my"),
    (re.compile(r"\b(him|her|hers)\b", re.IGNORECASE), "me"),
]
_VERBS = [(re.compile(rf"\bI {old}\b"), f"I {new}") for old, new in (("is", "am"), ("has", "have"), ("does", "do"))]


@dataclass(frozen=True)
class Voiced:
    """A query about `name`, and its positives and negatives as `name` says them."""

    query: str
    positives: list[str]
    negatives: list[str]


def subject(query: str) -> str | None:
    """The capitalized name that the question is about, if its shape tells."""
    found = _SUBJECT.search(query)
    name = found[1].removesuffix("'s") if found else ""
    return name if len(name) > 2 and name.split()[0] not in _NOT_NAMES else None


def voiced(query: str, positives: list[str], negatives: list[str], name: str) -> Voiced | None:
    """The row with its subject called `name` and speaking; None if the query or the first positive has no subject."""
    person = subject(query)
    if person is None or not _can_speak(positives[0], person):
        return None
    alias = re.compile("|".join(re.escape(part) for part in _parts(person)))
    said = [[first_person(text, alias) for text in texts] for texts in (positives, negatives)]
    return Voiced(alias.sub(name, query), said[0], said[1])


def first_person(text: str, alias: re.Pattern[str]) -> str:
    """`text` with whoever `alias` names, and every he or she, as "I"."""
    text = re.sub(rf"\b(?:{alias.pattern})(?:'s|s')", "my", text)
    text = re.sub(rf"\b(?:{alias.pattern})\b", "I", text)
    for pattern, replacement in [*_SWAPS, *_VERBS]:
        text = pattern.sub(replacement, text)
    return text[:1].upper() + text[1:]


def _can_speak(text: str, person: str) -> bool:
    return bool(_PRONOUNS.search(text)) or any(re.search(rf"\b{re.escape(part)}\b", text) for part in _parts(person))


def _parts(person: str) -> list[str]:
    """The whole name, its last and its first part, longest first."""
    words = person.split()
    return sorted({person, words[-1], words[0]}, key=len, reverse=True)
