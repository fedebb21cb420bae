"""Steps of groups, reproducible from a seed and a step number alone, and batches of pairs of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from data import SHARE, Row, dress
from groups import Group
from memories import memory_group
from scenes import scene_group

Encoded = tuple[list[int], list[int]]
"""Token ids and token types of a pair."""


@dataclass(frozen=True)
class Mix:
    """What a step is made of: `groups` groups, shares of which are made-up dialogues and written scenes."""

    groups: int
    memory: float
    scenes: float
    seed: int


@dataclass(frozen=True)
class Batch:
    """Pairs padded to one length: ids, types and mask [pairs, tokens], and their positions in the step."""

    ids: torch.Tensor
    types: torch.Tensor
    mask: torch.Tensor
    positions: list[int]


class Steps:
    """The groups of every step. Step n depends on the seed and n only, so a run can go on from any step."""

    def __init__(self, rows: Sequence[Row], passages: list[str], mix: Mix) -> None:
        self.passages = passages
        self.mix = mix
        self.memories = round(mix.groups * mix.memory)
        self.scenes = round(mix.groups * mix.scenes)
        self.rows = self._pass(rows)

    def _pass(self, rows: Sequence[Row]) -> list[Row]:
        """One pass over the rows: each as often as the share of its source says, shuffled."""
        rng = random.Random(f"{self.mix.seed} order")
        counts = [_rounded(SHARE.get(row.source, 1.0), rng) for row in rows]
        chosen = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
        rng.shuffle(chosen)
        return chosen

    def groups(self, step: int) -> list[Group]:
        """The groups of a step."""
        rng = random.Random(f"{self.mix.seed} {step}")
        per_step = self.mix.groups - self.memories - self.scenes
        chosen = [self.rows[(step * per_step + i) % len(self.rows)] for i in range(per_step)]
        dressed = [dress(row, self.passages, rng) for row in chosen]
        made_up = [memory_group(rng) for _ in range(self.memories)]
        return dressed + made_up + [scene_group(rng) for _ in range(self.scenes)]


def _rounded(share: float, rng: random.Random) -> int:
    return int(share) + (rng.random() < share - int(share))


def encode(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], limit: int) -> list[Encoded]:
    """[CLS] query [SEP] document [SEP] of each pair, with the document cut to leave `limit` tokens."""
    encodings = tokenizer.encode_batch(list(pairs))
    cut = [(encoding.ids, encoding.type_ids) for encoding in encodings]
    return [(ids, types) if len(ids) <= limit else (ids[: limit - 1] + ids[-1:], types[:limit]) for ids, types in cut]


def batches(encoded: Sequence[Encoded], tokens: int) -> Iterator[Batch]:
    """The pairs in batches of similar length, each of at most about `tokens` tokens.

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
