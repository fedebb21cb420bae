"""Running an encoder graph: every token of a pair sees all others, so each document is run together with the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from memrerank.batching import equal_length_batches
from memrerank.errors import ArtifactError
from memrerank.session import run

Float = npt.NDArray[np.float32]


class Encoder:
    """The graph of an encoder reranker; `token_types` are those of the query's and of the document's tokens."""

    token_budget = 320

    def __init__(self, session: ort.InferenceSession, token_types: tuple[int, int] | None) -> None:
        self._session = session
        self._token_types = token_types
        expected = {"input_ids"} if token_types is None else {"input_ids", "token_type_ids"}
        found = {value.name for value in session.get_inputs()}
        if found != expected:
            raise ArtifactError(
                f"The graph reads {', '.join(sorted(found))}; for an encoder with this template "
                f"{', '.join(sorted(expected))} was expected. Export the artifact again."
            )

    def prefix(self, head: Sequence[int], query: Sequence[int]) -> FirstOfPair:
        """The first half of pairs; nothing can be computed ahead."""
        return FirstOfPair(self, [*head, *query])

    def logits(self, first: Sequence[int], documents: Sequence[Sequence[int]]) -> Float:
        """The logit of `first` with each of `documents`, which are equally long: float32 [documents]."""
        feeds = {"input_ids": np.array([[*first, *document] for document in documents], np.int64)}
        if self._token_types is not None:
            types = np.repeat(np.array(self._token_types, np.int64), [len(first), len(documents[0])])
            feeds["token_type_ids"] = np.broadcast_to(types, feeds["input_ids"].shape)
        return cast(Float, run(self._session, ["logit"], feeds)[0])


@dataclass(frozen=True)
class FirstOfPair:
    """The token ids before the document."""

    encoder: Encoder
    ids: list[int]

    def batches(self, lengths: Sequence[int], threads: int) -> list[list[int]]:
        """Documents of equal length share a run, which reads all the ids before them for each."""
        pairs = [len(self.ids) + length for length in lengths]
        return equal_length_batches(pairs, self.encoder.token_budget, threads)

    def logits(self, documents: Sequence[Sequence[int]]) -> Float:
        """The logit of each pair: float32 [documents]."""
        return self.encoder.logits(self.ids, documents)
