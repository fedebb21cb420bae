"""Reading PAIRS.jsonl: a query, a document and a label in [0, 1] a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrerank import InputError, Memory
from memrerank.files import parse_json
from memrerank.memory import as_memory


@dataclass(frozen=True)
class Pair:
    """A judged pair; `context` holds dialogue turns before the query and `time` is when it is asked."""

    query: str
    document: Memory
    label: float
    context: tuple[str, ...] = ()
    time: str | None = None
    weight: float = 1.0

    @property
    def question(self) -> tuple[str, tuple[str, ...], str | None]:
        """What is asked: pairs that agree in it are judgements on one query."""
        return self.query, self.context, self.time


def read_pairs(path: Path) -> list[Pair]:
    """The pairs in `path`; InputError names the line that is not one, or that contradicts another one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); a UTF-8 file of JSON lines was expected.") from error
    pairs = list(_parse_lines(path, text))
    if not pairs:
        raise InputError(f"{path} holds no pairs; a line such as {_EXAMPLE} was expected.")
    return pairs


_EXAMPLE = '{"query": "...", "document": "...", "label": 1}'


def _parse_lines(path: Path, text: str) -> Iterator[Pair]:
    seen: dict[object, tuple[int, float]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                pair = _parse(parse_json(line))
            except (AttributeError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise InputError(
                    f"Line {number} of {path} is not a pair ({error!r}); a line such as {_EXAMPLE} was expected."
                ) from error
            first, label = seen.setdefault((pair.question, pair.document), (number, pair.label))
            if label != pair.label:
                raise InputError(
                    f"Lines {first} and {number} of {path} are the same pair with the labels {label:g} and "
                    f"{pair.label:g}; one label for a pair was expected. Remove one, or write their mean once."
                )
            yield pair


def _parse(row: Mapping[str, Any]) -> Pair:
    label, weight = _number(row["label"], "label"), _number(row.get("weight", 1.0), "weight")
    if not 0 <= label <= 1:
        raise ValueError(f"label {label} is outside [0, 1]")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight {weight} is not a finite number of at least 0")
    query, context, time = row["query"], row.get("context") or [], row.get("time")
    if not isinstance(query, str):
        raise TypeError("the query must be a text")
    if not isinstance(context, list) or not all(isinstance(turn, str) for turn in context):
        raise TypeError("the context must be a list of texts")
    as_memory(Memory("", time), "the query")
    return Pair(query, as_memory(row["document"], "the document"), label, tuple(context), time, weight)


def _number(value: object, name: str) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"the {name} is {value!r}, not a number")
    return float(value)
