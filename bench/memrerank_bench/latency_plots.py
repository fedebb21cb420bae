"""Plots of a latency result. Figures are made without pyplot, so that no display or global state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from memrerank_bench.latency_tables import documents_in_words, milliseconds, point_in_words, shares

Result = Mapping[str, Any]
SIZE = (5.4, 3.8)


def documents_plot(found: Result) -> Figure:
    """Latency against the number of documents, a line for each length."""
    return _lines(found, "documents", "document_tokens", "documents of a call", "{} tokens each")


def lengths_plot(found: Result) -> Figure:
    """Latency against the length of documents, a line for each number."""
    return _lines(found, "document_tokens", "documents", "tokens of a document, on average", "documents: {}")


def others_plot(found: Result) -> Figure | None:
    """Bars for the other query and context lengths and numbers of threads; None where there are none."""
    base = _base(found)
    same = ("documents", "document_tokens")
    others = [p for p in found["points"] if not _is_base(p, base)]
    if not others:
        return None
    middle = next((p for p in found["points"] if _is_base(p, base) and all(p[k] == others[0][k] for k in same)), None)
    shown = [p for p in (middle, *others) if p is not None]
    figure, axes = _figure(f"Other query, context and threads: {documents_in_words(shown[0])}")
    labels = [f"query {p['query_tokens']}, context {p['context_tokens']},\nthreads {p['threads']}" for p in shown]
    _bars(axes, labels, [p["p50"] * 1000 for p in shown], [milliseconds(p["p50"]) + " ms" for p in shown])
    axes.set_xlabel("milliseconds (median)")
    return figure


def breakdown_plot(breakdown: Result) -> Figure:
    """Bars of the operators' shares of the threads' time."""
    rows = [(name.partition(" (")[0], share) for name, share, _ in shares(breakdown)]
    figure, axes = _figure("Share of the threads' time")
    _bars(axes, [name for name, _ in rows], [100 * share for _, share in rows], [f"{share:.1%}" for _, share in rows])
    axes.set_xlabel("%")
    return figure


def ratios_plot(result: Result) -> Figure:
    """How many times as long the second artifact takes, with the range over rounds."""
    first, second = result["artifacts"]
    rows = result["ratios"]
    figure, axes = _figure(f"{second} takes so many times as long as {first}", (9, 1.2 + 0.3 * len(rows)))
    places = range(len(rows))
    middles = [row["median"] for row in rows]
    ends = [[row["median"] - row["least"] for row in rows], [row["most"] - row["median"] for row in rows]]
    axes.errorbar(middles, places, xerr=ends, fmt="o", capsize=3)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_yticks(places, [f"{point_in_words(row)}, threads {row['threads']}" for row in rows], fontsize=7)
    axes.invert_yaxis()
    return figure


def _lines(found: Result, along: str, each: str, label: str, name: str) -> Figure:
    base = _base(found)
    points = [point for point in found["points"] if _is_base(point, base)]
    figure, axes = _figure(f"Latency by {label}")
    for value in sorted({point[each] for point in points}):
        line = sorted((p for p in points if p[each] == value), key=lambda p: p[along])
        x, y = [p[along] for p in line], [p["p50"] * 1000 for p in line]
        (drawn,) = axes.plot(x, y, marker="o", label=name.format(value))
        slow = [(p["p95"] or p["slowest"]) * 1000 for p in line]
        axes.fill_between(x, y, slow, alpha=0.15, color=drawn.get_color(), linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({point[along] for point in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel("milliseconds (shaded to p95)")
    axes.grid(alpha=0.3)
    if points:
        axes.legend()
    return figure


def _base(found: Result) -> tuple[int, int, int]:
    """Threads, query and context of the points where documents vary: those of most points."""
    kinds = [(p["threads"], p["query_tokens"], p["context_tokens"]) for p in found["points"]]
    return max(dict.fromkeys(kinds), key=kinds.count)


def _is_base(point: Result, base: tuple[int, int, int]) -> bool:
    return (point["threads"], point["query_tokens"], point["context_tokens"]) == base


def _figure(title: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(axes: Axes, labels: Sequence[str], values: Sequence[float], shown: Sequence[str]) -> None:
    bars = axes.barh(range(len(values)), values)
    axes.bar_label(bars, labels=list(shown), padding=3, fontsize=9)
    axes.set_yticks(range(len(labels)), labels)
    axes.margins(x=0.15)
    axes.invert_yaxis()
