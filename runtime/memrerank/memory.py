"""What is ranked: texts, with the time and the speaker they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from types import NoneType
from typing import Any

from memrerank.errors import InputError

Time = str | date | datetime


@dataclass(frozen=True)
class Memory:
    """A remembered text.

    `time` is a datetime, a date, or a string; ISO 8601 strings such as 2023-08-25T13:33 are shown in the artifact's
    own format and other strings as they are. `metadata` is carried along and never shown to the model.
    """

    text: str
    time: Time | None = None
    speaker: str | None = None
    metadata: Mapping[str, Any] | None = field(default=None, compare=False)


Document = str | Memory | Mapping[str, Any]
"""What callers may rank: a plain text, a Memory, or a mapping with `text` and optionally `time` and `speaker`."""


def as_memory(document: object, what: str) -> Memory:
    """`document` as a Memory with checked types; `what` names it in errors, such as "Document 3"."""
    if isinstance(document, str):
        return Memory(document)
    parts: dict[str, Any]
    if isinstance(document, Mapping):
        parts = {name: document.get(name) for name in ("text", "time", "speaker")}
    elif isinstance(document, Memory):
        parts = {"text": document.text, "time": document.time, "speaker": document.speaker}
    else:
        raise InputError(
            f"{what} is of type {type(document).__name__}; a text, a Memory or a mapping with a 'text' was expected."
        )
    for name, value in parts.items():
        if not isinstance(value, _KINDS[name]):
            expected = "an ISO 8601 text or a datetime" if name == "time" else "a text"
            raise InputError(f"The {name} of {what} is of type {type(value).__name__}; {expected} was expected.")
        if value != value:  # NaT, which pandas puts where a time is missing, is a datetime
            raise InputError(f"The {name} of {what} is {value}; None stands for one that is not known.")
    return Memory(parts["text"], parts["time"], parts["speaker"])


_KINDS: dict[str, tuple[type, ...]] = {"text": (str,), "time": (str, date, NoneType), "speaker": (str, NoneType)}
