"""Latency of artifacts over a grid of calls, in rounds of fresh processes that take turns."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from memrerank import MemrerankError
from memrerank_bench.child import events, in_fresh_process
from memrerank_bench.described import describe_artifact
from memrerank_bench.grid import Grid, Point
from memrerank_bench.latency_summary import summarize

Event = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    A visit to a point of the grid takes at least one call, and at most `calls` or about `seconds`. Points whose call
    would take longer than `limit` seconds are left out. Lengths of documents vary by `spread` of their mean.
    """

    rounds: int
    seconds: float
    calls: int
    limit: float
    spread: float


@dataclass(frozen=True)
class Setup:
    """What a process measures: an artifact with a number of threads."""

    artifact: str
    threads: int


@dataclass
class Measured:
    """The events of each setup, the matmul rates by precision and threads, the profiles, and why it ended early."""

    events: dict[Setup, list[Event]] = field(default_factory=dict)
    rates: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    profiles: dict[str, Event | None] = field(default_factory=dict)
    partial: str | None = None


def measure_latency(artifacts: Sequence[str], grid: Grid, effort: Effort, device: str) -> dict[str, Any]:
    """The figures of each artifact; an interruption or an error leaves those measured so far, and `partial` says why.

    Where not one call was measured, the error goes on.
    """
    described = {artifact: describe_artifact(artifact) for artifact in artifacts}
    setups = [Setup(artifact, threads) for threads in grid.threads for artifact in artifacts]
    kinds = {
        (described[s.artifact]["precision"], s.threads) for s in setups if described[s.artifact]["built_for"] == "cpu"
    }
    measured = Measured({setup: [] for setup in setups})
    try:
        with tqdm(total=effort.rounds * sum(len(_points(grid, s)) for s in setups), unit="point", disable=None) as bar:
            for number in range(effort.rounds):
                bar.set_description(f"round {number + 1} of {effort.rounds}")
                for kind in sorted(kinds):
                    measured.rates.setdefault(kind, []).append(
                        in_fresh_process("matmul", *map(str, kind))["gop_per_second"]
                    )
                for setup in setups:
                    _visit_all(measured.events[setup], setup, grid, effort, device, bar)
                for artifact in artifacts if number == 0 else ():
                    measured.profiles[artifact] = _profile(artifact, grid, effort, device)
    except (KeyboardInterrupt, MemrerankError) as error:
        if not any(event["event"] == "visit" for found in measured.events.values() for event in found):
            raise
        measured.partial = str(error) or "interrupted"
    figures = {
        name: _figures(artifact, described[artifact], measured, grid)
        for name, artifact in zip(_short_names(artifacts), artifacts, strict=True)
    }
    return {"partial": measured.partial, "effort": asdict(effort), "grid": asdict(grid), "artifacts": figures}


def ratios(result: dict[str, Any]) -> list[dict[str, Any]]:
    """How many times as long each call takes with the second artifact as with the first: medians within rounds."""
    first, second = (found["points"] for found in result["artifacts"].values())
    call = ("threads", *Point.__dataclass_fields__)
    others = {tuple(point[name] for name in call): point for point in second}
    pairs = [(one, others[key]) for one in first if (key := tuple(one[name] for name in call)) in others]
    return [{**{name: one[name] for name in call}, **_ratio(one, other)} for one, other in pairs]


def _ratio(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    found = [b / a for a, b in zip(one["p50_by_round"], other["p50_by_round"], strict=False)]
    spread = {"median": statistics.median(found), "least": min(found), "most": max(found)}
    return {"first": one["p50"], "second": other["p50"], **spread}


def _short_names(artifacts: Sequence[str]) -> list[str]:
    """The folders' own names, or the whole paths where those are alike."""
    names = [Path(artifact).name for artifact in artifacts]
    return names if len(set(names)) == len(names) else list(artifacts)


def _points(grid: Grid, setup: Setup) -> list[Point]:
    return grid.points(setup.threads)


def _visit_all(found: list[Event], setup: Setup, grid: Grid, effort: Effort, device: str, bar: tqdm) -> None:
    """A round of a setup: a fresh process visits all its points, but those that the first round left out."""
    left_out = [Point(**event["point"]) for event in found if event["event"] == "skipped"]
    points = [point for point in _points(grid, setup) if point not in left_out]
    bar.update(len(left_out))
    spec = {**asdict(setup), **asdict(effort), "device": device, "points": [asdict(point) for point in points]}
    if found:
        spec["limit"] = float("inf")
    with closing(events("worker", json.dumps({**spec, "started": time.time()}))) as emitted:
        for event in emitted:
            found.append(event)
            bar.update(event["event"] in ("visit", "skipped"))


def _profile(artifact: str, grid: Grid, effort: Effort, device: str) -> Event | None:
    spec = {"artifact": artifact, "device": device, "threads": grid.threads[0], "spread": effort.spread}
    found: Event | None = in_fresh_process("profiling", json.dumps({**spec, "point": asdict(grid.middle())}))
    return found


def _figures(artifact: str, described: dict[str, Any], measured: Measured, grid: Grid) -> dict[str, Any]:
    by_threads = {setup.threads: found for setup, found in measured.events.items() if setup.artifact == artifact}
    rates = {
        threads: rate for (precision, threads), rate in measured.rates.items() if precision == described["precision"]
    }
    profile = measured.profiles.get(artifact)
    return {"artifact": described, **summarize(by_threads, rates, profile, grid.middle(), grid.threads[0])}
