"""Which documents share a run: only documents of equal length, so nothing is padded and no score can change."""

from __future__ import annotations

from collections.abc import Sequence


def equal_length_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Positions of documents, in batches of one length and at most `token_budget` tokens (or one document).

    Batches are ordered by their first document, so that an early stop leaves the last documents unscored.
    """
    batches: list[list[int]] = []
    open_batch: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        batch = open_batch.get(length)
        if batch is None or (len(batch) + 1) * length > token_budget:
            batch = open_batch[length] = []
            batches.append(batch)
        batch.append(position)
    return batches
