"""What the model learns from: a query with documents, some of which answer it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from memrerank.memory import Memory
from memrerank.template import render_memory, render_query
from memrerank_export.encoder_source import RENDERING


@dataclass(frozen=True)
class Turn:
    """Something said; `time` and `speaker` may be unknown."""

    text: str
    time: datetime | None = None
    speaker: str | None = None

    def memory(self) -> Memory:
        """The same as the runtime takes it."""
        return Memory(self.text, time=self.time, speaker=self.speaker)


@dataclass(frozen=True)
class Group:
    """A query and documents as the model reads them, those that answer first, with a label in [0, 1] for each.

    `source` is where it comes from.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    source: str

    @property
    def made_up(self) -> bool:
        """Whether it comes from this recipe's templates, so that its labels are sure."""
        return self.source.startswith("memory")


def group(query: Turn, context: list[Turn], positives: list[Turn], negatives: list[Turn], source: str) -> Group:
    """A group, with everything rendered as the runtime does it."""
    documents = [render_memory(turn.memory(), RENDERING) for turn in [*positives, *negatives]]
    rendered = render_query(query.memory(), [turn.memory() for turn in context], RENDERING)
    labels = [1.0] * len(positives) + [0.0] * len(negatives)
    return Group(rendered, tuple(documents), tuple(labels), source)
