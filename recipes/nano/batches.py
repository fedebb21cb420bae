"""Batches of texts, or pairs of texts, of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

Encoded = tuple[list[int], list[int]]
"""Token ids and token types of a text or a pair."""


@dataclass(frozen=True)
class Batch:
    """Texts padded to one length: ids, types and mask [texts, tokens], and their positions among all."""

    ids: torch.Tensor
    types: torch.Tensor
    mask: torch.Tensor
    positions: list[int]


def encode(tokenizer: Tokenizer, texts: Sequence[str] | Sequence[tuple[str, str]], limit: int) -> list[Encoded]:
    """[CLS] text [SEP], or [CLS] query [SEP] document [SEP], cut at the end to leave `limit` tokens."""
    encodings = tokenizer.encode_batch(list(texts))
    cut = [(encoding.ids, encoding.type_ids) for encoding in encodings]
    return [(ids, types) if len(ids) <= limit else (ids[: limit - 1] + ids[-1:], types[:limit]) for ids, types in cut]


def batches(encoded: Sequence[Encoded], tokens: int) -> Iterator[Batch]:
    """The texts in batches of similar length, each of at most about `tokens` tokens.

    Lengths are multiples of 8: kernels are compiled for each shape, so few shapes save time.
    """
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]))
    while order:
        longest = -(-len(encoded[order[-1]][0]) // 8) * 8
        taken, order = order[-max(1, tokens // longest) :], order[: -max(1, tokens // longest)]
        yield _padded(encoded, taken, longest)


def _padded(encoded: Sequence[Encoded], positions: list[int], longest: int) -> Batch:
    size = (len(positions), longest)
    ids, types, mask = (torch.zeros(size, dtype=torch.long) for _ in range(3))
    for row, position in enumerate(positions):
        pair, kinds = encoded[position]
        ids[row, : len(pair)] = torch.tensor(pair)
        types[row, : len(pair)] = torch.tensor(kinds)
        mask[row, : len(pair)] = 1
    return Batch(ids, types, mask, positions)
