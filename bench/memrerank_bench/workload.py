"""Texts of a wanted number of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from memrerank import Reranker
from memrerank_bench.grid import Point
from memrerank_bench.words import WORDS


@dataclass(frozen=True)
class Workload:
    """A call's texts; `tokens` is how many the model reads, `shared` of them once where documents share a prefix."""

    query: str
    documents: list[str]
    context: list[str]
    shared: int
    tokens: int


def make_workload(reranker: Reranker, point: Point, spread: float) -> Workload | None:
    """Texts of random words, always the same ones; None where the artifact's prompts are too short for them.

    Documents have between 1 - spread and 1 + spread times the point's number of tokens, evenly, as far as they fit.
    Numbers of tokens are exact for tokenizers to which each of the words is one token, else close.
    """
    draw = random.Random(0)
    per_word = _tokens_per_word(reranker)

    def text(tokens: float) -> str:
        return " ".join(draw.choices(WORDS, k=max(1, round(tokens / per_word))))

    query = text(point.query_tokens)
    context = [text(point.context_tokens)] if point.context_tokens else []
    short = [reranker.encode(query, word, context=context) for word in WORDS[:2]]
    frame = len(short[0]) - per_word
    room = reranker.manifest.limits.max_tokens - frame
    if room < point.document_tokens:
        return None
    lengths = [point.document_tokens * draw.uniform(1 - spread, 1 + spread) for _ in range(point.documents)]
    lengths = [min(length, room) for length in lengths]
    documents = [text(length) for length in lengths]
    words = sum(len(document.split()) for document in documents)
    shared = _common_start(*short) if reranker.manifest.family == "decoder" else 0
    tokens = shared + point.documents * (frame - shared) + words * per_word
    return Workload(query, documents, context, shared, round(tokens))


def _tokens_per_word(reranker: Reranker) -> float:
    few, many = (len(reranker.encode("", " ".join(WORDS[:count]))) for count in (8, 24))
    return max((many - few) / 16, 0.1)


def _common_start(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids two prompts have in common before they differ."""
    return next((i for i, pair in enumerate(zip(ids, others, strict=False)) if pair[0] != pair[1]), len(ids))
