"""Writing results: whether that is possible is found out before measuring, and files appear when they are whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrerank import InputError


def check_writable(*paths: Path | None) -> None:
    """InputError that names the first of `paths` that could not be written."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{path} is a folder; the name of a file was expected.")
        temporary = _temporary(path)
        try:
            temporary.touch()
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
        temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: whoever reads it sees the old one or the whole new one."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")
