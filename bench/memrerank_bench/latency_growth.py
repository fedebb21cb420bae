"""How cost grows along each axis of a latency grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memrerank_bench.tables import markdown

Result = Mapping[str, Any]

AXES = {
    "documents": "documents",
    "document_tokens": "tokens each",
    "context_tokens": "context",
    "query_tokens": "query",
    "threads": "threads",
}


def growth_table(found: Result) -> str:
    """Tokens and time from the least to the greatest measured value of each axis; "" without any range."""
    rows = [
        [
            f"{AXES[axis]} {least[axis]:,} to {most[axis]:,}",
            "; ".join(f"{AXES[other]} {least[other]:,}" for other in AXES if other != axis),
            f"{most['tokens'] / least['tokens']:.1f} times",
            f"{most['p50'] / least['p50']:.1f} times",
            f"{least['tokens_per_second']:,.0f} to {most['tokens_per_second']:,.0f}",
        ]
        for axis, least, most in _ranges(found)
    ]
    return markdown(["from, to", "with", "tokens", "time", "tokens/s"], rows) if rows else ""


def _ranges(found: Result) -> Iterator[tuple[str, Result, Result]]:
    """For each axis, the ends of the widest range of it that was measured with all else equal."""
    for axis in AXES:
        groups: dict[tuple[int, ...], list[Result]] = {}
        for point in found["points"]:
            groups.setdefault(tuple(point[other] for other in AXES if other != axis), []).append(point)
        ends = [(min(g, key=lambda p: p[axis]), max(g, key=lambda p: p[axis])) for g in groups.values()]
        wider = [(least, most) for least, most in ends if least[axis] < most[axis]]
        if wider:
            yield axis, *max(wider, key=lambda pair: pair[1][axis] - pair[0][axis])
