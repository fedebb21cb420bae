"""Write a part of the data folder as PAIRS.jsonl, dressed as memories, to calibrate an artifact with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from evaluate import part_groups
from split import PARTS


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument(
        "--part", choices=PARTS, default="calibrate", help="part of the valid rows (default: calibrate)"
    )
    parser.add_argument("--limit", type=int, default=10_000, help="at most so many rows (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    options = parser.parse_args(argv)
    with options.output.open("w", encoding="utf-8") as file:
        for group in part_groups(options.data, options.part, options.limit):
            for document, label in zip(group.documents, group.labels, strict=True):
                row = {"query": group.query, "document": document, "label": label, "source": group.source}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
