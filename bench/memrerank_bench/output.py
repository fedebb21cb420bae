"""Writing results: whether that is possible is found out before measuring, and files appear when they are whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrerank import InputError
from memrerank.files import temporary_beside, write_text


def check_writable(*paths: Path | None) -> None:
    """InputError that names the first of `paths` that could not be written."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{path} is a folder; the name of a file was expected.")
        temporary = temporary_beside(path)
        try:
            temporary.touch()
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from error
        temporary.unlink()


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(result, indent=1) + "\n")
