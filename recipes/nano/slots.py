"""Templates with slots: lists of phrases from TOML files, filled with values by a random generator."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "templates"
PLACEHOLDER = re.compile(r"\{(\w+)\}")
Values = Mapping[str, str]


@dataclass(frozen=True)
class Event:
    """Something that happened to a person; see the head of events.toml for its fields."""

    slot: str
    did: tuple[str, ...]
    do: tuple[str, ...]
    ask: tuple[str, ...]
    topic: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Theme:
    """Statements that all answer the questions `ask`; `slot` is what the statements differ in, if anything."""

    says: tuple[str, ...]
    ask: tuple[str, ...]
    slot: str = ""


@cache
def phrases(file: str) -> dict[str, list[str]]:
    """The lists of a TOML file of the templates folder."""
    return _read(file)


@cache
def events() -> list[Event]:
    """All events."""
    return [Event(**_frozen(entry)) for entry in _read("events.toml")["event"]]


@cache
def themes(name: str) -> list[Theme]:
    """The entries of `name`s.toml, trait or hint."""
    return [Theme(**_frozen(entry)) for entry in _read(f"{name}s.toml")[name]]


def values_for(rng: random.Random, *fixed: tuple[str, str]) -> dict[str, str]:
    """A value for every slot, except for those `fixed`."""
    chosen = {slot: rng.choice(options) for slot, options in phrases("slots.toml").items()}
    return chosen | dict(fixed)


def other(rng: random.Random, slot: str, *taken: str) -> str:
    """A value of `slot` that is none of `taken`."""
    return rng.choice([value for value in phrases("slots.toml")[slot] if value not in taken])


def fill(text: str, values: Values) -> str:
    """`text` with its placeholders, also those inside the values, replaced."""
    while PLACEHOLDER.search(text):
        text = PLACEHOLDER.sub(lambda found: values[found[1]], text)
    return text


def sentence(text: str) -> str:
    """`text` with a capital at its start and a full stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text[-1:] in ".?!" else ".")


def _read(file: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / file).read_text(encoding="utf-8"))


def _frozen(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
