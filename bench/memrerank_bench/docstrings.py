"""Texts that every Python has: what its standard library says about itself."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

MODULES = """
argparse ast asyncio collections csv datetime decimal difflib email.message fractions functools heapq http.client
inspect itertools json logging os pathlib pickle random re shutil socket sqlite3 ssl statistics string subprocess
tarfile tempfile textwrap threading typing unittest.mock urllib.request weakref zipfile
"""


def documented_texts() -> list[tuple[str, str]]:
    """The first paragraph and the rest of the docstrings of functions and classes, each once."""
    return list(dict.fromkeys(_docstrings()))


def _docstrings() -> Iterator[tuple[str, str]]:
    for name in MODULES.split():
        module = importlib.import_module(name)
        for member in sorted(vars(module)):
            documented = getattr(module, member)
            if member.startswith("_") or not callable(documented) or not (text := inspect.getdoc(documented)):
                continue
            first, *rest = (re.sub(r"\s+", " ", part) for part in text.split("\n\n"))
            if 20 < len(first) < 200 and len(" ".join(rest)) > 60:
                yield first, " ".join(rest)
