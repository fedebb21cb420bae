"""What a family of models offers, so that one Reranker scores with any of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from memrerank.decoder import Decoder
from memrerank.encoder import Encoder
from memrerank.errors import ArtifactError
from memrerank.manifest import Manifest
from memrerank.padded_decoder import PaddedDecoder, open_on_gpu
from memrerank.session import open_session

Float = npt.NDArray[np.float32]


class Prefix(Protocol):
    """A prompt up to its document, which any number of documents may continue."""

    def batches(self, lengths: Sequence[int], threads: int) -> list[list[int]]:
        """Positions of documents of these lengths, in batches that share a run, for so many runs side by side."""

    def logits(self, documents: Sequence[Sequence[int]]) -> Float:
        """The logit after each document of a batch: float32 [documents]."""


class Scorer(Protocol):
    """A model."""

    def prefix(self, head: Sequence[int], query: Sequence[int]) -> Prefix:
        """What precedes the documents of a call: `head` is the part that calls have in common."""


def open_scorer(manifest: Manifest, graph: Path, device: str, *, weights_in_file: bool = False) -> Scorer:
    """The model in `graph`, of the family that `manifest` names; `weights_in_file` is for `open_session`."""
    if device == "cuda":
        return open_on_gpu(manifest, graph)
    if manifest.family == "decoder":
        kind = PaddedDecoder if manifest.device == "cuda" else Decoder
        return kind(open_session(graph, weights_in_file=weights_in_file))
    if manifest.family == "encoder":
        return Encoder(open_session(graph, weights_in_file=weights_in_file), manifest.template.token_types)
    raise ArtifactError(f"The artifact is of family {manifest.family!r}; this memrerank runs 'decoder' and 'encoder'.")
