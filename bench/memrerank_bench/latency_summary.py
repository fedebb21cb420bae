"""From the events of measuring processes to figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memrerank_bench.grid import Point
from memrerank_bench.watch import mean

Event = Mapping[str, Any]
Figures = dict[str, Any]

WIDE = 0.2
"""Interquartile range of a point's calls, in parts of their median, from which the spread is called wide."""

ENOUGH = {95: 20, 99: 100}
"""Calls from which a percentile is worth stating."""


def summarize(
    events: Mapping[int, Sequence[Event]],
    rates: Mapping[int, Sequence[float]],
    profile: Event | None,
    middle: Point,
    base_threads: int,
) -> Figures:
    """Figures of an artifact from events, matmul rates and a profile; the first two by number of threads."""
    points = [found for threads, each in events.items() for found in _points(threads, each)]
    ceiling = {threads: statistics.median(found) for threads, found in rates.items()}
    breakdown = None if profile is None else _breakdown(profile, middle, points, ceiling.get(base_threads))
    if breakdown is not None:
        for point in points:
            point["share_of_ceiling"] = _share(point, breakdown, ceiling)
    every = [event for each in events.values() for event in each]
    return {
        "device": next((event["device"] for event in every if event["event"] == "start"), None),
        "cold_start": [_cold_start(threads, each) for threads, each in events.items() if _of(each, "start")],
        "memory": _memory(every),
        "points": points,
        "left_out": [
            {"threads": threads, **event["point"], "reason": event["reason"]}
            for threads, each in events.items()
            for event in _of(each, "skipped")
        ],
        "matmul": [
            {"threads": threads, "gop_per_second": ceiling[threads], "by_round": list(found)}
            for threads, found in rates.items()
        ],
        "breakdown": breakdown,
    }


def _of(events: Sequence[Event], kind: str) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def _points(threads: int, events: Sequence[Event]) -> list[Figures]:
    visits: dict[Point, list[Event]] = {}
    for event in _of(events, "visit"):
        visits.setdefault(Point(**event["point"]), []).append(event)
    return [_point(threads, point, found) for point, found in visits.items()]


def _point(threads: int, point: Point, visits: Sequence[Event]) -> Figures:
    """Latency in seconds over the calls of all visits; memory is the largest during the visits."""
    seconds = np.concatenate([visit["seconds"] for visit in visits])
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    spread = float((high - low) / middle)
    gpus = [visit["gpu"] for visit in visits]
    return {
        "threads": threads,
        **asdict(point),
        "tokens": visits[0]["tokens"],
        "shared_tokens": visits[0]["shared_tokens"],
        "calls": len(seconds),
        "p50": float(middle),
        **{f"p{p}": float(np.percentile(seconds, p)) if len(seconds) >= n else None for p, n in ENOUGH.items()},
        "fastest": float(seconds.min()),
        "slowest": float(seconds.max()),
        "p50_by_round": [float(np.median(visit["seconds"])) for visit in visits],
        "spread": spread,
        "wide_spread": spread > WIDE,
        "documents_per_second": point.documents / float(middle),
        "tokens_per_second": visits[0]["tokens"] / float(middle),
        "share_of_ceiling": None,
        "resident_bytes": max(visit["resident_bytes"] for visit in visits),
        "gpu": {name: mean([gpu[name] for gpu in gpus]) for name in gpus[0]},
    }


def _cold_start(threads: int, events: Sequence[Event]) -> Figures:
    """Seconds of a fresh process's first steps, as medians over rounds, and the slowest from start to first score."""
    starts = [event["seconds"] for event in _of(events, "start")]
    medians = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    return {
        "threads": threads,
        "processes": len(starts),
        **medians,
        "slowest": max(each["from_process_start"] for each in starts),
    }


def _memory(events: Sequence[Event]) -> Figures:
    """Resident bytes: medians after loading and after all calls, and the peak."""
    after = {"loaded": _of(events, "start"), "steady": _of(events, "end")}
    medians = {
        name: int(statistics.median(event["resident_bytes"] for event in found)) if found else None
        for name, found in after.items()
    }
    peaks = [event.get("peak_bytes") or event["resident_bytes"] for event in events if "resident_bytes" in event]
    return {**medians, "peak": max(peaks, default=None)}


def _breakdown(profile: Event, middle: Point, points: Sequence[Figures], rate: float | None) -> Figures:
    """Shares of the threads' time in the profiled call, and the rate of linear layers in that call unprofiled."""
    available = profile["seconds"] * profile["threads"]
    operators = [{**each, "share": each["seconds"] / available} for each in profile["operators"]]
    same = [
        p for p in points if Point(**{k: p[k] for k in asdict(middle)}) == middle and p["threads"] == profile["threads"]
    ]
    reached = profile["linear_operations"] / same[0]["p50"] / 1e9 if same else None
    return {
        "point": asdict(middle),
        "threads": profile["threads"],
        "seconds": profile["seconds"],
        "tokens": profile["tokens"],
        "operators": operators,
        "outside_operators": 1 - sum(each["share"] for each in operators),
        "linear_operations": profile["linear_operations"],
        "linear_gop_per_second_in_call": reached,
        "linear_gop_per_second_in_operators": _rate(profile),
        "matmul_gop_per_second": rate,
        "share_of_ceiling": None if reached is None or rate is None else reached / rate,
    }


def _rate(profile: Event) -> float | None:
    """Of all threads together, while they are in linear operators."""
    if not profile["linear_seconds"]:
        return None
    return float(profile["linear_operations"] / profile["linear_seconds"] * profile["threads"] / 1e9)


def _share(point: Figures, breakdown: Figures, ceiling: Mapping[int, float]) -> float | None:
    """The point's rate of linear operations, with as many a token as in the profiled call, by the matmul rate."""
    rate = ceiling.get(point["threads"])
    if rate is None:
        return None
    return float(breakdown["linear_operations"] / breakdown["tokens"] * point["tokens_per_second"] / rate / 1e9)
