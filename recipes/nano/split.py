"""The valid rows in three parts, select, calibrate and test, that share no document and no passage.

A document is not named in the data; rows whose positives or hardest negatives meet are taken to be of one document.
A document's part follows from a hash, so it stays the same when rows are added. Passages that remain in two parts as
negatives are dropped from all but the part they hash to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from data import Row

PARTS = ("select", "calibrate", "test")
HARDEST = 2
"""How many of the first negatives are taken to be from the document of the positive."""


def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each part; a row that has no negative left is dropped."""
    documents = _documents(rows)
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    part_of_row = [part_of(f"document {documents[row.positives[0]]}") for row in rows]
    owner = {i: part for row, part in zip(rows, part_of_row, strict=True) for i in row.positives}
    for row, part in zip(rows, part_of_row, strict=True):
        kept = tuple(i for i in row.negatives if owner.get(i, part_of(f"passage {i}")) == part)
        if kept:
            parts[part].append(replace(row, negatives=kept))
    return parts


def part_of(key: str) -> str:
    """The part that `key` hashes to; the three are equally likely."""
    return PARTS[int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % len(PARTS)]


def _documents(rows: Sequence[Row]) -> dict[int, int]:
    """The smallest passage id of the document of each passage, by joining what rows have in common."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while parent.setdefault(i, i) != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for row in rows:
        ids = [root(i) for i in (*row.positives, *row.negatives[:HARDEST])]
        for i in ids:
            parent[root(i)] = min(root(i), root(ids[0]))
            parent[root(ids[0])] = root(i)
    return {i: root(i) for i in list(parent)}
