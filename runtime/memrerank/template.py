"""The prompt as data: pieces with placeholders, special ids, and how times, speakers and turns are shown.

The prompt is head + query + document. Each piece is a list of segments: an int is the id of a special token, a
str is text whose placeholders are filled before it is encoded in one go. Cutting the prompt into these pieces must
not change its tokens, so a piece may end only where the tokenizer always splits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from memrerank.memory import Memory, Time

Segment = int | str

ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d.*)?")
"""What is read as a time; `fromisoformat` would also read 1702011212, seconds since 1970, as a day in 1702."""


@dataclass(frozen=True)
class Rendering:
    """How what surrounds a text is written; `{instruction}`, `{time}`, `{speaker}` and `{turn}` are filled in.

    What a call does not give is left out with all that surrounds it, as is an empty instruction.
    """

    instruction: str
    time: str
    speaker: str
    turn: str
    datetime_format: str
    date_format: str


@dataclass(frozen=True)
class Template:
    """The pieces of the prompt, the rendering of memories and what else a model wants to know of its tokens.

    `instruction` is used when a call gives none, and None where the prompt has no instruction. `token_types` are the
    types of the tokens before the document's and of the document's, None where the model knows no types. `padding`
    is the id that the model takes for no token, None where it has none.
    """

    head: tuple[Segment, ...]
    query: tuple[Segment, ...]
    document: tuple[Segment, ...]
    rendering: Rendering
    instruction: str | None
    token_types: tuple[int, int] | None = None
    padding: int | None = None

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that only the template may put into a prompt."""
        return frozenset(s for s in (*self.head, *self.query, *self.document) if isinstance(s, int))


def fill(text: str, **values: str) -> str:
    """`text` with each `{name}` replaced; braces inside the values stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def render_instruction(instruction: str, rendering: Rendering) -> str:
    """The instruction, where there is one."""
    return fill(rendering.instruction, instruction=instruction) if instruction else ""


def render_memory(memory: Memory, rendering: Rendering) -> str:
    """A memory's time and speaker, where known and not empty, at the head of its text."""
    time = fill(rendering.time, time=render_time(memory.time, rendering)) if memory.time else ""
    speaker = fill(rendering.speaker, speaker=memory.speaker) if memory.speaker else ""
    return time + speaker + memory.text


def render_query(query: Memory, context: Sequence[Memory], rendering: Rendering) -> str:
    """The dialogue turns before the question, the time at which it is asked, and the question."""
    turns = [fill(rendering.turn, turn=render_memory(turn, rendering)) for turn in context]
    return "".join(turns) + render_memory(query, rendering)


def render_time(time: Time, rendering: Rendering) -> str:
    """A date, a datetime or an ISO 8601 text with dashes in the template's format; any other text as it is."""
    if isinstance(time, str):
        if not ISO_8601.fullmatch(time):
            return time
        try:
            time = date.fromisoformat(time) if len(time) == len("2023-05-08") else datetime.fromisoformat(time)
        except ValueError:
            return str(time)
    form = rendering.datetime_format if isinstance(time, datetime) else rendering.date_format
    return time.strftime(form)
