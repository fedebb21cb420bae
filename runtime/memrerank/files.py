"""Writing files, and reading JSON that others wrote."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: whoever reads it sees the old one or the whole new one."""
    temporary = temporary_beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str) -> Any:
    """What `text` says; ValueError where it is not JSON, also where it is nested deeper than Python reads."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def temporary_beside(path: Path) -> Path:
    """A name in the folder of `path` that no other process takes."""
    return path.with_name(f".{path.name}.{os.getpid()}")
