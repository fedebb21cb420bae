"""Running a decoder graph that was built for GPUs: many documents a run, padded at their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from memrerank.batching import padded_batches
from memrerank.cuda import open_cuda_session
from memrerank.decoder import Decoder, Past
from memrerank.driver import Driver
from memrerank.errors import DeviceError
from memrerank.manifest import WEIGHTS, Manifest
from memrerank.session import Session, Tensor

MOST_TOKENS = 16384
"""Of a run: enough for the matrix kernels, and a deadline is kept to a run."""

FEWEST_TOKENS = 256
"""A run must have room for so many."""

SHARE = 0.9
"""Part of the free memory that may be taken; cuBLAS and the driver want some as well."""

RESERVE = 256 << 20
"""Bytes for the workspaces of kernels and for gaps between tensors."""

ALIVE = 8
"""Numbers, in widths of the widest layer, that a token has in memory at a time: gate, factor, product and states."""


@dataclass(frozen=True)
class Room:
    """What a run may take: `tokens`, and bytes of `memory`.

    `token_bytes` are those of a token's states, `past_bytes` those of its keys and values in one layer, where every
    row has a copy of the past.
    """

    tokens: int
    memory: float = inf
    token_bytes: int = 0
    past_bytes: int = 0

    def rows(self, length: int, past: int) -> int:
        """How many rows of `length` tokens behind `past` others a run takes, at least one."""
        row = length * self.token_bytes + (past + length) * self.past_bytes
        return int(max(1, min(self.tokens // length, self.memory // max(row, 1))))

    @property
    def chunk(self) -> int:
        """How many tokens of a lone row a run takes."""
        return int(min(self.tokens, self.memory // max(self.token_bytes + self.past_bytes, 1)))


ON_CPU = Room(FEWEST_TOKENS)


class PaddedDecoder(Decoder):
    """A graph whose rows may be padded, and whose keys and values stay where they were computed."""

    ids_inputs = ("input_ids", "last")
    new_prefix = "present_"

    def __init__(self, session: Session, room: Room = ON_CPU) -> None:
        super().__init__(session)
        self.room = room
        self.chunk = room.chunk

    def appended(self, past: Mapping[str, Tensor], new: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """`new`, which holds the keys and values of the tokens before as well."""
        return dict(zip(past, new, strict=True))

    def batches(self, past: Past, lengths: Sequence[int], threads: int) -> list[list[int]]:
        """Documents of similar lengths share a run."""
        return padded_batches(lengths, lambda length: self.room.rows(length, past.tokens))

    def ids_feeds(self, rows: Sequence[Sequence[int]]) -> Mapping[str, Tensor]:
        """The rows with zeros behind them, and where their last tokens stand among all."""
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.zeros((len(rows), lengths.max()), np.int64)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row
        return {"input_ids": ids, "last": np.arange(len(rows)) * ids.shape[1] + lengths - 1}


def open_on_gpu(manifest: Manifest, graph: Path) -> PaddedDecoder:
    """The decoder in `graph` on the first GPU; DeviceError where it does not fit or would not run there."""
    free = Driver().free_memory()
    fixed = 2 * graph.with_name(WEIGHTS).stat().st_size + RESERVE  # weights are rearranged when they are loaded
    room = room_for(manifest, int(SHARE * free) - fixed)
    if room.chunk < FEWEST_TOKENS:
        needed = (fixed + FEWEST_TOKENS * (room.token_bytes + room.past_bytes)) / SHARE
        raise DeviceError(
            f"The GPU has {free / 1e6:,.0f} MB of free memory and this artifact needs {needed / 1e6:,.0f}. End what "
            "else uses the GPU, or export the checkpoint as int8 or int4."
        )
    return PaddedDecoder(open_cuda_session(graph, fixed + int(room.memory)), room)


def room_for(manifest: Manifest, memory: int) -> Room:
    """What a run of the artifact may take in at most `memory` bytes; no more than `MOST_TOKENS` can use."""
    size = 4 if manifest.precision == "fp32" else 2
    shapes = {name: record.shape for name, record in manifest.plan.items() if "embed" not in name}
    widest = max(max(shape) for shape in shapes.values())
    keys = max(shape[0] for name, shape in shapes.items() if name.endswith("k_proj.weight"))
    token_bytes = ALIVE * widest * size
    past_bytes = 2 * 2 * keys * size  # keys and values, as they come and joined to the new ones
    useful = MOST_TOKENS * (token_bytes + 4 * past_bytes)  # documents may be a third as long as what precedes them
    return Room(MOST_TOKENS, min(memory, useful), token_bytes, past_bytes)
