"""Which operators a call's time goes to, from ONNX Runtime's profile. Run as a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime as ort

from memrerank import Reranker, session
from memrerank_bench.grid import Point
from memrerank_bench.workload import make_workload

LINEAR = ("MatMulIntegerToFloat", "MatMulNBits", "MatMul", "FusedMatMul", "Gemm", "FusedGemm")

APART = 0.05
"""Seconds between the call that warms up and the one that counts."""


@dataclass(frozen=True)
class Opened:
    """A session, and when it was ready."""

    session: ort.InferenceSession
    time: float


def profile(artifact: str, device: str, threads: int, point: Point, spread: float) -> dict[str, Any] | None:
    """The seconds of a call, what its operators take over all threads, and the operations of its linear layers.

    None where the artifact's prompts are too short for the point.
    """
    with tempfile.TemporaryDirectory() as folder, _profiled_sessions(Path(folder) / "profile") as sessions:
        reranker = Reranker.load(artifact, device=device, threads=threads, verify=False)
        workload = make_workload(reranker, point, spread)
        if workload is None:
            return None
        reranker.rerank(workload.query, workload.documents, context=workload.context)
        time.sleep(APART)
        begin = time.perf_counter()
        reranker.rerank(workload.query, workload.documents, context=workload.context)
        seconds = time.perf_counter() - begin
        events = [event for each in sessions for event in _events(each, begin - APART / 2)]
    return {"seconds": seconds, "tokens": workload.tokens, "threads": threads, **summarize(events)}


def summarize(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by operator, most first, and the multiply-adds of linear layers times 2."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in events:
        seconds[event["args"]["op_name"]] += event["dur"] / 1e6
        calls[event["args"]["op_name"]] += 1
    ordered = sorted(seconds, key=lambda name: -seconds[name])
    return {
        "operators": [{"operator": name, "seconds": seconds[name], "runs": calls[name]} for name in ordered],
        "linear_operations": 2 * sum(_multiply_adds(e["args"]) for e in events if e["args"]["op_name"] in LINEAR),
        "linear_seconds": sum(seconds[name] for name in LINEAR),
    }


def _multiply_adds(arguments: Mapping[str, Any]) -> int:
    """Of a product [..., inner] by [inner, columns]: the weights themselves are packed and have no shape here."""
    (left,) = arguments["input_type_shape"][0].values()
    (product,) = arguments["output_type_shape"][0].values()
    return int(prod(product) * left[-1])


def _events(opened: Opened, since: float) -> list[dict[str, Any]]:
    """The runs of operators that began at `since` or later."""
    with open(opened.session.end_profiling()) as file:
        found = json.load(file)
    created = next(event for event in found if event["name"] == "session_initialization")
    start = opened.time - (created["ts"] + created["dur"]) / 1e6  # of the profile's clock, by perf_counter
    return [event for event in found if event["cat"] == "Node" and start + event["ts"] / 1e6 >= since]


@contextmanager
def _profiled_sessions(prefix: Path) -> Iterator[list[Opened]]:
    """Sessions that the runtime opens in the block write profiles. The runtime has no switch: only this needs one."""
    opened: list[Opened] = []
    make, options_for = ort.InferenceSession, session.session_options

    def options_with_profile(threads: int) -> ort.SessionOptions:
        options = options_for(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(prefix)
        return options

    def remembered(*arguments: Any, **options: Any) -> ort.InferenceSession:
        made = make(*arguments, **options)
        opened.append(Opened(made, time.perf_counter()))
        return made

    session.session_options, ort.InferenceSession = options_with_profile, remembered
    try:
        yield opened
    finally:
        session.session_options, ort.InferenceSession = options_for, make


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    print(json.dumps(profile(**{**spec, "point": Point(**spec["point"])})))
