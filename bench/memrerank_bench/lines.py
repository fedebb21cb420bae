"""Reading files a line at a time, with errors that name the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from memrerank import InputError
from memrerank.files import parse_json

T = TypeVar("T")


def parse_lines(path: Path, parse: Callable[[str], T], kind: str) -> Iterator[T]:
    """What `parse` makes of every line that is not blank; InputError names the line that is not a `kind`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); a UTF-8 file was expected.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield parse(line)
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
                reason = f"it has no {error}" if isinstance(error, KeyError) else error
                raise InputError(f"Line {number} of {path} is not a {kind}: {reason}") from error


def parse_rows(path: Path, parse: Callable[[Mapping[str, Any]], T], kind: str) -> Iterator[T]:
    """The same for lines that are JSON objects."""

    def parse_object(line: str) -> T:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise TypeError(f"it is of type {type(row).__name__}, and a JSON object was expected")
        return parse(row)

    return parse_lines(path, parse_object, kind)


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A required text."""
    if not isinstance(row[key], str):
        raise TypeError(f"its {key!r} is of type {type(row[key]).__name__}, and a text was expected")
    return str(row[key])


def texts_of(row: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts, empty where the row has none."""
    found = row.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TypeError(f"its {key!r} is {found!r}, and a list of texts was expected")
    return found
