"""A result of `memrerank-bench latency` or `compare` as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrerank_bench.latency_growth import growth_table
from memrerank_bench.tables import markdown

Result = Mapping[str, Any]

SHOWN = 2
"""Calls left out that are named."""

GPU = (("memory_bytes", "GPU MB", 1e6), ("power_watts", "W", 1), ("clock_mhz", "GPU MHz", 1))
"""What accelerators may report: the key, the column, and its unit."""


def latency_report(result: Result) -> str:
    """All of a result, for people."""
    parts = [f"PARTIAL: {result['partial']}"] if result["partial"] else []
    for name, found in result["artifacts"].items():
        parts += [f"{name}: {facts(found)}", headline(found)]
        if found["points"]:
            parts += [points_table(found), growth_table(found), cold_start_table(found), breakdown_table(found)]
        parts += notes(found)
    if "ratios" in result:
        parts.append(ratios_table(result))
    return "\n\n".join(part for part in parts if part)


def facts(found: Result) -> str:
    """The artifact, its size and its memory in a line."""
    artifact, memory = found["artifact"], found["memory"]
    known = [f"{memory[name] / 1e6:,.0f} MB {name}" for name in ("loaded", "steady", "peak") if memory[name]]
    return (
        f"{artifact['architecture']} in {artifact['precision']} on {found['device']}, "
        f"{artifact['bytes'] / 1e6:,.1f} MB on disk; resident memory {', '.join(known)}"
    )


def headline(found: Result) -> str:
    """What decides: a call in the middle of the grid, and the start."""
    points, breakdown, cold = found["points"], found["breakdown"], found["cold_start"]
    if not points:
        return "No call was measured."
    point = next((p for p in points if breakdown and breakdown["point"].items() <= p.items()), points[-1])
    call = (
        f"A call with {documents_in_words(point)} takes {milliseconds(point['p50'])} ms (median) on {point['threads']} "
        f"thread{'s' if point['threads'] > 1 else ''}: {point['documents_per_second']:,.0f} documents a second."
    )
    start = f" The first score comes {cold[0]['from_process_start']:.2f} s after the process starts." if cold else ""
    return call + start


def points_table(found: Result) -> str:
    """Latency of every point; * marks a wide spread."""
    gpu = [column for column in GPU if any(p["gpu"][column[0]] for p in found["points"])]
    rows = [
        [
            str(p["threads"]),
            str(p["documents"]),
            str(p["document_tokens"]),
            str(p["query_tokens"]),
            str(p["context_tokens"]),
            *(
                milliseconds(p[name]) + ("*" if name == "p50" and p["wide_spread"] else "")
                for name in ("p50", "p95", "p99")
            ),
            f"{p['documents_per_second']:.4g}",
            f"{p['tokens_per_second']:,.0f}",
            "-" if p["share_of_ceiling"] is None else f"{p['share_of_ceiling']:.0%}",
            f"{p['resident_bytes'] / 1e6:,.0f}",
            str(p["calls"]),
            *(f"{p['gpu'][name] / unit:,.0f}" if p["gpu"][name] else "-" for name, _, unit in gpu),
        ]
        for p in found["points"]
    ]
    head = ["threads", "documents", "tokens each", "query", "context", "p50 ms", "p95 ms", "p99 ms", "documents/s"]
    return markdown([*head, "tokens/s", "of matmul rate", "MB", "calls", *(name for _, name, _ in gpu)], rows)


def cold_start_table(found: Result) -> str:
    """Milliseconds of a fresh process until its first score."""
    rows = [
        [
            str(c["threads"]),
            *(milliseconds(c[name]) for name in ("import", "load", "first_score", "from_process_start", "slowest")),
        ]
        for c in found["cold_start"]
    ]
    head = ["threads", "ms to import", "ms to load", "ms to score a pair", "ms from process start", "slowest"]
    return markdown(head, rows)


def breakdown_table(found: Result) -> str:
    """Shares of the time by operator; "" where there is no profile."""
    breakdown = found["breakdown"]
    if breakdown is None:
        return ""
    rows = [[name, f"{share:.1%}", runs] for name, share, runs in shares(breakdown)]
    return markdown([f"operator ({point_in_words(breakdown['point'])})", "share of time", "runs"], rows)


def shares(breakdown: Result, smallest: float = 0.01) -> list[tuple[str, float, str]]:
    """Operators with their shares and runs, those below `smallest` together, and what is outside of them."""
    large = [each for each in breakdown["operators"] if each["share"] >= smallest]
    rest = [each for each in breakdown["operators"] if each["share"] < smallest]
    rows = [(each["operator"], each["share"], f"{each['runs']:,}") for each in large]
    if rest:
        rows.append((f"{len(rest)} others", sum(each["share"] for each in rest), f"{sum(e['runs'] for e in rest):,}"))
    return [*rows, ("outside operators (tokenizing, calls, idle threads)", breakdown["outside_operators"], "")]


def notes(found: Result) -> list[str]:
    """What a reader should know besides: the ceiling, wide spreads, what was left out."""
    written = []
    breakdown = found["breakdown"]
    if breakdown and breakdown["share_of_ceiling"] is not None:
        written.append(
            f"Linear layers ran at {breakdown['linear_gop_per_second_in_call']:,.0f} billion operations a second of a "
            f"call's time ({breakdown['linear_gop_per_second_in_operators']:,.0f} while in their operators); a large "
            f"matmul of this precision reached {breakdown['matmul_gop_per_second']:,.0f}: "
            f"{breakdown['share_of_ceiling']:.0%} of it."
        )
    if wide := sum(point["wide_spread"] for point in found["points"]):
        written.append(
            f"* {wide} of {len(found['points'])} points have a wide spread: half of the calls differ by more than 20%."
        )
    if any(point["p99"] is None for point in found["points"]):
        written.append(
            "p95 is stated from 20 calls on, p99 from 100; MB is the largest resident memory during the calls, with "
            "what the calls above left."
        )
    if found["left_out"]:
        few, rest = found["left_out"][:SHOWN], len(found["left_out"]) - SHOWN
        listed = "; ".join(f"{point_in_words(each)} ({each['reason']})" for each in few)
        written.append(f"Left out: {listed}{f'; and {rest} larger calls' if rest > 0 else ''}.")
    return written


def ratios_table(result: Result) -> str:
    """How many times as long the second artifact takes as the first, within rounds."""
    first, second = result["artifacts"]
    rows = [
        [
            str(r["threads"]),
            point_in_words(r),
            milliseconds(r["first"]),
            milliseconds(r["second"]),
            f"{r['median']:.2f}",
            f"{r['least']:.2f} to {r['most']:.2f}",
        ]
        for r in result["ratios"]
    ]
    return markdown(["threads", "call", f"{first}, p50 ms", f"{second}, p50 ms", "times as long", "in rounds"], rows)


def point_in_words(point: Result) -> str:
    """A call in words."""
    context = f", context of {point['context_tokens']}" if point["context_tokens"] else ""
    return f"{documents_in_words(point)}, query of {point['query_tokens']}{context}"


def documents_in_words(point: Result) -> str:
    """The documents of a call in words."""
    count = point["documents"]
    return f"{count} document{'s' if count > 1 else ''} of {point['document_tokens']} tokens"


def milliseconds(seconds: float | None) -> str:
    """Three digits at least; a dash for what is not known."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:,.0f}" if seconds >= 0.1 else f"{seconds * 1000:.3g}"
