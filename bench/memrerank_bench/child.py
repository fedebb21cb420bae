"""Measurements in processes of their own: alone, cold, and ended with the command that started them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from memrerank import MemrerankError


def events(module: str, *arguments: str | Path) -> Generator[dict[str, Any]]:
    """The JSON lines that a module of memrerank_bench prints, as they come; MemrerankError where it fails.

    The process does not see an interruption from the keyboard, and is ended when the iteration is left.
    """
    command = [sys.executable, "-m", f"memrerank_bench.{module}", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == "error":
                    raise MemrerankError(event["message"])
                yield event
            if code := process.wait():
                raise MemrerankError(_ended(code))
        finally:
            process.kill()


def in_fresh_process(module: str, *arguments: str | Path) -> Any:
    """The figures that a module of memrerank_bench prints, as its last line."""
    *_, last = events(module, *arguments)
    return last


def _ended(code: int) -> str:
    why = " (killed: it may have needed more memory than there is)" if code == -9 else ""
    return f"The process that measures ended with exit code {code}{why}."
