"""A fresh process that loads an artifact and measures calls, smallest first; it prints one JSON event a line.

Everything heavy is imported while the clock runs, as an agent that starts does it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memrerank import Reranker
    from memrerank_bench.grid import Point
    from memrerank_bench.workload import Workload

WARM_UP = 1.0
"""Seconds of a call up to which the first of a visit is not counted."""


def main() -> int:
    """Measure what the JSON in the first argument asks for."""
    spec = json.loads(sys.argv[1])
    start = time.perf_counter()
    import memrerank

    imported = time.perf_counter()
    try:
        reranker = memrerank.Reranker.load(spec["artifact"], device=spec["device"], threads=spec["threads"])
        loaded = time.perf_counter()
        reranker.score("What does she like?", ["I love painting."])
        scored = time.perf_counter()
        cold = {"import": imported - start, "load": loaded - imported, "first_score": scored - loaded}
        cold["from_process_start"] = time.time() - spec["started"]
        _start_event(reranker, cold)
        _measure(reranker, spec)
    except memrerank.MemrerankError as error:
        _emit("error", message=str(error))
        return 1
    return 0


def _start_event(reranker: Reranker, cold: dict[str, float]) -> None:
    from memrerank_bench.watch import Seen

    seen = Seen()
    seen.sample()
    _emit("start", seconds=cold, resident_bytes=seen.resident_bytes, device=reranker.device)


def _measure(reranker: Reranker, spec: Mapping[str, Any]) -> None:
    from memrerank_bench.grid import Point
    from memrerank_bench.workload import make_workload

    measured: list[tuple[Point, float]] = []
    for point in (Point(**each) for each in spec["points"]):
        workload = make_workload(reranker, point, spec["spread"])
        if workload is None:
            _emit(
                "skipped",
                point=asdict(point),
                reason=f"longer than the {reranker.manifest.limits.max_tokens} tokens it takes",
            )
        elif (expected := _seconds_per_token(measured, point) * workload.tokens) > spec["limit"]:
            _emit(
                "skipped",
                point=asdict(point),
                reason=f"a call would take some {expected:.0f} s; --limit is {spec['limit']:g}",
            )
        else:
            fastest = _visit(reranker, point, workload, spec)
            measured.append((point, fastest / workload.tokens))
    _end_event()


def _seconds_per_token(measured: Sequence[tuple[Point, float]], point: Point) -> float:
    """That of the last point with such documents and context, else of the last one where these are shorter; else 0."""
    lengths = (point.document_tokens, point.context_tokens)
    others = [((other.document_tokens, other.context_tokens), seconds) for other, seconds in measured]
    alike = [seconds for of_other, seconds in others if of_other == lengths]
    shorter = [seconds for (tokens, context), seconds in others if tokens <= lengths[0] and context <= lengths[1]]
    return (alike or shorter or [0.0])[-1]


def _visit(reranker: Reranker, point: Point, workload: Workload, spec: Mapping[str, Any]) -> float:
    """Time calls for some seconds, at least one; returns the fastest."""
    from memrerank_bench.watch import watch

    with watch(with_gpu=True) as seen:
        first = _timed(reranker, workload)
        seconds = [] if first < WARM_UP else [first]
        while len(seconds) < 1 or (sum(seconds) < spec["seconds"] and len(seconds) < spec["calls"]):
            seconds.append(_timed(reranker, workload))
    _emit(
        "visit",
        point=asdict(point),
        seconds=seconds,
        tokens=workload.tokens,
        shared_tokens=workload.shared,
        resident_bytes=seen.resident_bytes,
        gpu=seen.gpu_summary(),
    )
    return min(seconds)


def _timed(reranker: Reranker, workload: Workload) -> float:
    start = time.perf_counter()
    reranker.rerank(workload.query, workload.documents, context=workload.context)
    return time.perf_counter() - start


def _end_event() -> None:
    from memrerank_bench.watch import Seen

    seen = Seen()
    seen.sample()
    _emit("end", resident_bytes=seen.resident_bytes, peak_bytes=_peak_bytes())


def _peak_bytes() -> int | None:
    """The largest resident memory that this process ever had, where the system keeps it (Linux)."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None


def _emit(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
