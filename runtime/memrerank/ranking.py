"""What a call returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

DocumentT = TypeVar("DocumentT")

BANDS = ("irrelevant", "key information missing", "partial", "high", "direct answer")


@dataclass(frozen=True)
class Hit(Generic[DocumentT]):
    """A scored document: its position in the input, its probability and logit, and the caller's own object.

    `interval` holds 95% confidence limits of the probability; None where the artifact is not calibrated.
    """

    index: int
    score: float
    logit: float
    document: DocumentT
    interval: tuple[float, float] | None = None

    @property
    def band(self) -> str:
        """The band of the score, each 0.2 wide, as MemReranker's paper names them."""
        return BANDS[min(int(self.score * len(BANDS)), len(BANDS) - 1)]


class Ranking(Sequence[Hit[DocumentT]]):
    """Hits, best first.

    `unscored` holds the input positions that a deadline left out, `truncated` those whose text was cut to fit.
    """

    def __init__(
        self, hits: Iterable[Hit[DocumentT]], unscored: Sequence[int] = (), truncated: Sequence[int] = ()
    ) -> None:
        self._hits = tuple(hits)
        self.unscored = tuple(unscored)
        self.truncated = tuple(truncated)

    @overload
    def __getitem__(self, index: int) -> Hit[DocumentT]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit[DocumentT]]: ...
    def __getitem__(self, index: int | slice) -> Hit[DocumentT] | Sequence[Hit[DocumentT]]:
        """The hit at a rank, or the hits at a range of ranks."""
        return self._hits[index]

    def __len__(self) -> int:
        """The number of hits."""
        return len(self._hits)

    def __repr__(self) -> str:
        """The hits, and what was not scored or was cut."""
        return f"Ranking({list(self._hits)!r}, unscored={self.unscored!r}, truncated={self.truncated!r})"
