"""Which documents share a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

PADDING = 2048
"""Tokens of padding that a GPU computes rather than begin another run, whose launch takes as long."""


def equal_length_batches(lengths: Sequence[int], token_budget: int, threads: int = 1) -> list[list[int]]:
    """Positions of documents, in batches of one length, so that nothing is padded and no score can change.

    A batch has at most `token_budget` tokens (or one document), and fewer where a thread would be idle otherwise.
    Batches are ordered by their first document, so that an early stop leaves the last documents unscored.
    """
    token_budget = min(token_budget, -(-sum(lengths) // threads))
    batches: list[list[int]] = []
    open_batch: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        batch = open_batch.get(length)
        if batch is None or (len(batch) + 1) * length > token_budget:
            batch = open_batch[length] = []
            batches.append(batch)
        batch.append(position)
    return batches


def padded_batches(lengths: Sequence[int], most_rows: Callable[[int], int]) -> list[list[int]]:
    """Positions of documents, longest first, in batches to be padded to the length of their first.

    `most_rows` tells how many documents of a length a run takes. A batch has at most `PADDING` tokens of padding.
    """
    batches: list[list[int]] = []
    padding = 0
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        padding += longest - lengths[position]
        if not batches or padding > PADDING or len(batches[-1]) >= most_rows(longest):
            batches.append([])
            padding = 0
        batches[-1].append(position)
    return batches
