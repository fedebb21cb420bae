"""Running a decoder graph: the shared start of a prompt once, every document on top of its keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from memrerank.batching import equal_length_batches
from memrerank.errors import ArtifactError
from memrerank.session import Session, Tensor, run

Float = npt.NDArray[np.float32]

CHUNK = 256
"""Most tokens of one row in a run: attention holds heads * CHUNK * prompt scores at a time."""

NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Decoder:
    """The graph of a decoder reranker, with the keys and values it passes from run to run."""

    token_budget = 96  # enough for the matrix kernels, few enough to need little memory
    chunk = CHUNK
    ids_inputs: tuple[str, ...] = ("input_ids",)
    new_prefix = ""
    """With which the names of the outputs begin where those of the inputs begin with "past_"."""

    def __init__(self, session: Session) -> None:
        self._session = session
        inputs = {value.name: value for value in session.get_inputs()}
        found = [name for name in self.ids_inputs if inputs.pop(name, None) is not None]
        if len(found) < len(self.ids_inputs) or not all(len(value.shape) == 4 for value in inputs.values()):
            raise ArtifactError(
                f"The graph does not have the inputs of a decoder ({', '.join(self.ids_inputs)}, and the keys and "
                "values of the past); export the artifact again."
            )
        self._past_inputs = inputs
        self._new_names = [self.new_prefix + name.removeprefix("past_") for name in inputs]
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
        tensors: dict[str, Tensor] = {}
        for name, value in self._past_inputs.items():
            _, heads, _, size = value.shape
            tensors[name] = np.empty((1, heads, 0, size), NUMBERS[value.type])
        return Past(self, 0, tensors)

    def extend(self, past: Past, ids: Sequence[int]) -> Past:
        """The past after `ids` as well."""
        for chunk in _chunks(ids, self.chunk):
            tensors = self.appended(past.tensors, self._run(self._new_names, past, [chunk]))
            past = Past(self, past.tokens + len(chunk), tensors)
        return past

    def appended(self, past: Mapping[str, Tensor], new: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """The keys and values of `past` and of the tokens of a run, which its outputs `new` hold."""
        pairs = zip(past.items(), new, strict=True)
        return {name: np.concatenate([cast(Float, kept), cast(Float, added)], axis=2) for (name, kept), added in pairs}

    def batches(self, past: Past, lengths: Sequence[int], threads: int) -> list[list[int]]:
        """Documents of equal length share a run."""
        return equal_length_batches(lengths, self.token_budget, threads)

    def logits(self, past: Past, rows: Sequence[Sequence[int]]) -> Float:
        """The logit after `past` and each of `rows`, a batch: float32 [rows].

        A row longer than a run takes is the only one of its batch.
        """
        if len(rows) == 1:
            *chunks, last = _chunks(rows[0], self.chunk)
            for chunk in chunks:
                past = self.extend(past, chunk)
            rows = [last]
        return cast(Float, self._run(["logit"], past, rows)[0])

    def ids_feeds(self, rows: Sequence[Sequence[int]]) -> Mapping[str, Tensor]:
        """What the graph reads of `rows`, which are equally long."""
        return {"input_ids": np.array(rows, np.int64)}

    def _run(self, outputs: Sequence[str], past: Past, rows: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        return run(self._session, outputs, {**self.ids_feeds(rows), **past.tensors})


@dataclass(frozen=True)
class Past:
    """Keys and values of so many `tokens`: a tensor [1, kv_heads, tokens, head_dim] per graph input."""

    decoder: Decoder
    tokens: int
    tensors: Mapping[str, Tensor]

    def batches(self, lengths: Sequence[int], threads: int) -> list[list[int]]:
        """Positions of documents of these lengths in batches that share a run."""
        return self.decoder.batches(self, lengths, threads)

    def logits(self, documents: Sequence[Sequence[int]]) -> Float:
        """The logit after each document of a batch: float32 [documents]."""
        return self.decoder.logits(self, documents)


def _chunks(ids: Sequence[int], most: int) -> list[Sequence[int]]:
    """`ids` in as few parts of at most `most` as can be, of nearly equal length.

    A part of one token would be computed by other kernels, in other last bits, than the same token among others.
    """
    parts = -(-len(ids) // most)
    ends = [len(ids) * i // parts for i in range(parts + 1)] if parts else []
    return [ids[start:end] for start, end in pairwise(ends)]
