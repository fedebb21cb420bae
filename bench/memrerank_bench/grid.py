"""The grid of a latency measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product


@dataclass(frozen=True)
class Point:
    """A call: how many documents, and the tokens of a document on average, of the query and of the context."""

    documents: int
    document_tokens: int
    query_tokens: int
    context_tokens: int

    @property
    def size(self) -> int:
        """About how much there is to compute."""
        return self.query_tokens + self.context_tokens + self.documents * self.document_tokens


@dataclass(frozen=True)
class Grid:
    """The values to measure; the first of `query_tokens`, `context_tokens` and `threads` is the base."""

    documents: Sequence[int]
    document_tokens: Sequence[int]
    query_tokens: Sequence[int]
    context_tokens: Sequence[int]
    threads: Sequence[int]

    def middle(self) -> Point:
        """The call that other values are varied around, and that is profiled."""
        documents, tokens = (sorted(values)[len(values) // 2] for values in (self.documents, self.document_tokens))
        return Point(documents, tokens, self.query_tokens[0], self.context_tokens[0])

    def points(self, threads: int) -> list[Point]:
        """The calls to measure with so many threads, smallest first.

        With the base number: documents and their lengths in every combination, and each other query and context
        length at the middle. With another number: the middle alone.
        """
        middle = self.middle()
        if threads != self.threads[0]:
            return [middle]
        found = [
            replace(middle, documents=documents, document_tokens=tokens)
            for documents, tokens in product(self.documents, self.document_tokens)
        ]
        found += [replace(middle, query_tokens=tokens) for tokens in self.query_tokens]
        found += [replace(middle, context_tokens=tokens) for tokens in self.context_tokens]
        return sorted(dict.fromkeys(found), key=lambda point: point.size)
