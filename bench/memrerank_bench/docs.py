"""Figures in the documentation, made from the JSON results in bench/results.

    python -m memrerank_bench.docs            # write them into README.md and docs/*.md
    python -m memrerank_bench.docs --check    # exit code 1 where text and results differ

A document has a line `<!-- figures: NAME -->`, what is made for that name, and a line `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memrerank.files import write_text
from memrerank_bench import encoders, precisions, quality_tables, throughput
from memrerank_bench.latency_growth import growth_table
from memrerank_bench.latency_tables import (
    breakdown_table,
    cold_start_table,
    facts,
    headline,
    notes,
    points_table,
    ratios_table,
)
from memrerank_bench.machine import in_words

Result = Mapping[str, Any]
Make = Callable[[dict[str, Any]], str]

BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def update(text: str, results: Path) -> str:
    """`text` with every block made anew from the results in a folder; ValueError for a name that is not known."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{make(block[2], results)}\n\n{block[4]}", text)


def make(name: str, results: Path) -> str:
    """The text of a block: `<result>/<part>`, of the file <result>.json."""
    file, _, part = name.partition("/")
    path = results / f"{file}.json"
    if part not in PARTS or not path.is_file():
        raise ValueError(f"There are no figures {name!r}: {path} with one of {', '.join(PARTS)} was expected.")
    return PARTS[part](json.loads(path.read_text(encoding="utf-8")))


def documents(root: Path) -> list[Path]:
    """The texts with figures."""
    found = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return [path for path in found if BLOCK.search(path.read_text(encoding="utf-8"))]


def origin(result: Result) -> str:
    """With which command, when and on which machine figures were measured."""
    return f"`{result['command']}`, {result['date'][:10]}; {in_words(result['machine'])}."


def _latency(result: Result) -> str:
    parts = [origin(result)]
    for name, found in result["artifacts"].items():
        parts += [f"**{name}**: {facts(found)}. {headline(found)}", points_table(found), *notes(found)]
    return "\n\n".join(parts)


def _breakdown(result: Result) -> str:
    return "\n\n".join(f"{name}:\n\n{breakdown_table(found)}" for name, found in result["artifacts"].items())


def _cold_start(result: Result) -> str:
    return "\n\n".join(f"{name}:\n\n{cold_start_table(found)}" for name, found in result["artifacts"].items())


def _growth(result: Result) -> str:
    return "\n\n".join(f"{name}:\n\n{growth_table(found)}" for name, found in result["artifacts"].items())


def _quality(result: Result) -> str:
    return "\n\n".join([origin(result), *quality_tables.tables(result)])


PARTS: Mapping[str, Make] = {
    "throughput": throughput.table,
    "precisions": precisions.table,
    "encoders": encoders.table,
    "layers": encoders.layers,
    "budgets": encoders.budgets,
    "quality": _quality,
    "latency": _latency,
    "breakdown": _breakdown,
    "cold-start": _cold_start,
    "growth": _growth,
    "ratios": ratios_table,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures, or check them."""
    options = _parser().parse_args(arguments)
    stale = []
    for path in documents(options.root):
        text = path.read_text(encoding="utf-8")
        if (updated := update(text, options.root / "bench" / "results")) != text:
            stale.append(path)
            if not options.check:
                write_text(path, updated)
    for path in stale:
        print(f"{path} {'differs from the results' if options.check else 'was written'}", file=sys.stderr)
    return 1 if stale and options.check else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memrerank_bench.docs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    parser.add_argument("--check", action="store_true", help="change nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
