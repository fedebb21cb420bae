"""Running a decoder graph: the shared start of a prompt once, every document on top of its keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from memrerank.errors import ArtifactError, ScoringError

Float = npt.NDArray[np.float32]

CHUNK = 256
"""Most tokens of one row in a run: attention holds heads * CHUNK * prompt scores at a time."""


@dataclass(frozen=True)
class Past:
    """Keys and values of the tokens so far: an array [1, kv_heads, tokens, head_dim] per graph input."""

    arrays: Mapping[str, Float]


class Decoder:
    """The graph of a decoder reranker, with the keys and values it passes from run to run."""

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

    def empty(self) -> Past:
        """The past of the first token."""
        shapes = self._past_shapes.items()
        return Past({name: np.empty((1, heads, 0, size), np.float32) for name, (_, heads, _, size) in shapes})

    def extend(self, past: Past, ids: Sequence[int]) -> Past:
        """The past after `ids` as well."""
        for chunk in _chunks(ids):
            new = self._run(self._new_names, past, [chunk])
            past = Past(
                {
                    name: np.concatenate([array, appended], axis=2)
                    for (name, array), appended in zip(past.arrays.items(), new, strict=True)
                }
            )
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
        try:
            found: list[Float] = self._session.run(outputs, {"input_ids": np.array(rows, np.int64), **past.arrays})
        except Exception as error:  # ONNX Runtime has no common error type
            raise ScoringError(f"ONNX Runtime {ort.__version__} could not run the model: {error}") from error
        return found


def _chunks(ids: Sequence[int]) -> list[Sequence[int]]:
    """`ids` in as few parts of at most CHUNK as can be, of nearly equal length.

    A part of one token would be computed by other kernels, in other last bits, than the same token among others.
    """
    parts = -(-len(ids) // CHUNK)
    ends = [len(ids) * i // parts for i in range(parts + 1)] if parts else []
    return [ids[start:end] for start, end in pairwise(ends)]
