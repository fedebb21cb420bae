"""Running a decoder graph: the shared start of a prompt once, every document on top of its keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from memrerank.errors import ArtifactError
from memrerank.session import run

Float = npt.NDArray[np.float32]

CHUNK = 256
"""Most tokens of one row in a run: attention holds heads * CHUNK * prompt scores at a time."""


class Decoder:
    """The graph of a decoder reranker, with the keys and values it passes from run to run."""

    token_budget = 96  # enough for the matrix kernels, few enough to need little memory

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        inputs = {value.name: value.shape for value in session.get_inputs()}
        if inputs.pop("input_ids", None) is None or not all(len(shape) == 4 for shape in inputs.values()):
            raise ArtifactError(
                "The graph does not have the inputs of a decoder (input_ids, and the keys and values of the past); "
                "export the artifact again."
            )
        self._past_shapes = inputs
        self._new_names = [name.removeprefix("past_") for name in self._past_shapes]
        self._head: tuple[list[int], Past] = ([], self.empty())

    def prefix(self, head: Sequence[int], query: Sequence[int]) -> Past:
        """The past after `head` and `query`; that of the last head is kept for the next call."""
        kept, past = self._head
        if kept != head:
            past = self.extend(self.empty(), head)
            self._head = (list(head), past)
        return self.extend(past, query)

    def empty(self) -> Past:
        """The past of the first token."""
        shapes = self._past_shapes.items()
        return Past(self, {name: np.empty((1, heads, 0, size), np.float32) for name, (_, heads, _, size) in shapes})

    def extend(self, past: Past, ids: Sequence[int]) -> Past:
        """The past after `ids` as well."""
        for chunk in _chunks(ids):
            new = self._run(self._new_names, past, [chunk])
            arrays = {
                name: np.concatenate([array, appended], axis=2)
                for (name, array), appended in zip(past.arrays.items(), new, strict=True)
            }
            past = Past(self, arrays)
        return past

    def logits(self, past: Past, rows: Sequence[Sequence[int]]) -> Float:
        """The logit after `past` and each of `rows`, which are equally long: float32 [rows].

        A row longer than a run takes is the only one of its batch.
        """
        if len(rows) == 1:
            *chunks, last = _chunks(rows[0])
            for chunk in chunks:
                past = self.extend(past, chunk)
            rows = [last]
        return self._run(["logit"], past, rows)[0]

    def _run(self, outputs: Sequence[str], past: Past, rows: Sequence[Sequence[int]]) -> list[Float]:
        return run(self._session, outputs, {"input_ids": np.array(rows, np.int64), **past.arrays})


@dataclass(frozen=True)
class Past:
    """Keys and values of the tokens so far: an array [1, kv_heads, tokens, head_dim] per graph input."""

    decoder: Decoder
    arrays: Mapping[str, Float]

    @property
    def repeated(self) -> int:
        """Documents share all of it."""
        return 0

    def logits(self, documents: Sequence[Sequence[int]]) -> Float:
        """The logit after each document: float32 [documents]."""
        return self.decoder.logits(self, documents)


def _chunks(ids: Sequence[int]) -> list[Sequence[int]]:
    """`ids` in as few parts of at most CHUNK as can be, of nearly equal length.

    A part of one token would be computed by other kernels, in other last bits, than the same token among others.
    """
    parts = -(-len(ids) // CHUNK)
    ends = [len(ids) * i // parts for i in range(parts + 1)] if parts else []
    return [ids[start:end] for start, end in pairwise(ends)]
