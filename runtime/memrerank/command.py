"""What every command does around its work: one line on what went wrong, and the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from memrerank.errors import MemrerankError


def run_command(
    program: str, work: Callable[[], object], *, interrupted: str = "interrupted.", extra: str = "cpu"
) -> int:
    """Do `work`; returns the exit code: 0, or 1 after naming an error that users may meet.

    `interrupted` is said after Ctrl-C, and `extra` is what `pip install "memrerank[...]"` takes to bring modules that
    are missing.
    """
    try:
        work()
        sys.stdout.flush()  # a full disk or a closed pipe may show only now
        return 0
    except (MemrerankError, OSError) as error:
        reason = str(error)
    except ImportError as error:
        reason = f"{error.name} is not installed; pip install 'memrerank[{extra}]' brings what it needs."
    except KeyboardInterrupt:
        reason = interrupted
    _drop_what_cannot_be_written()
    print(f"{program}: {' '.join(reason.split())}", file=sys.stderr)
    return 1


def _drop_what_cannot_be_written() -> None:
    """Keep Python from failing once more, with an exit code of its own, when it flushes the output at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
