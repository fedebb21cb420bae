"""A result of `memrerank-bench quality` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from memrerank_bench.tables import markdown

Result = Mapping[str, Any]
Shown = Mapping[str, Mapping[str, float | None]]


def quality_report(result: Result) -> str:
    """All of a result, for people."""
    data = result["data"]
    lines = [
        f"{data['questions']} questions, {data['documents']} candidates; {data['relevant_among_candidates']} of "
        f"{data['relevant']} relevant documents are among them"
        + (f"; {data['left_out']} questions left out" if data["left_out"] else "")
    ]
    if result["partial"]:
        lines.insert(0, f"PARTIAL: {data['questions']} of {data['of_questions']} questions ({result['partial']})")
    return "\n\n".join(["\n".join(lines), *tables(result)])


def tables(result: Result) -> list[str]:
    """The tables of a result, without those that it has no figures for."""
    found = [figures_table(result), gains_table(result), fusion_table(result), agreement_table(result)]
    return [each for each in found if each]


def figures_table(result: Result) -> str:
    """Each measure with its interval, by category and ranking."""
    names = list(result["categories"]["all"]["artifact"])
    rows = [
        [
            category if i == 0 else "",
            str(found["questions"]) if i == 0 else "",
            order,
            *map(_with_interval, shown.values()),
        ]
        for category, found in result["categories"].items()
        for i, (order, shown) in enumerate(_rankings(result, found))
    ]
    return markdown(["category", "questions", "order", *names], rows)


def gains_table(result: Result) -> str:
    """What the artifact gains over the first stage and the other artifact, with intervals and p; "" without any."""
    rows = [
        [category, over, *map(_gain, shown.values())]
        for category, found in result["categories"].items()
        for over, shown in _gains(result, found)
    ]
    names = list(result["categories"]["all"]["artifact"])
    return markdown(["category", "gain over", *names], rows) if rows else ""


def fusion_table(result: Result) -> str:
    """What fusing the artifact's order with that of the first stage would change, by measure; "" without any."""
    rows = [
        [category, first, *map(_gain, shown.values())]
        for category, found in result["categories"].items()
        for first, shown in found["gain_of_fusing"].items()
    ]
    names = list(result["categories"]["all"]["artifact"])
    return markdown(["category", "gain of fusing with", *names], rows) if rows else ""


def agreement_table(result: Result) -> str:
    """How alike the two artifacts order candidates; "" where there is one."""
    if "against" not in result:
        return ""
    rows = []
    for category, found in result["categories"].items():
        alike = found["agreement_with_against"]
        tau = "" if alike["kendall_tau"] is None else f"{alike['kendall_tau']:.3f}"
        rows.append([category, tau, f"{alike['flips']:.2%}", f"{alike['other_first']:.1%}"])
    return markdown(["category", "Kendall's tau", "pairs in another order", "another best candidate"], rows)


def _rankings(result: Result, found: Result) -> Iterator[tuple[str, Shown]]:
    yield from found["first_stage"].items()
    yield result["artifact"]["name"], found["artifact"]
    if "against" in found:
        yield result["against"]["name"], found["against"]


def _gains(result: Result, found: Result) -> Iterator[tuple[str, Shown]]:
    yield from found["gain_over_first_stage"].items()
    if "gain_over_against" in found:
        yield result["against"]["name"], found["gain_over_against"]


def _with_interval(shown: Mapping[str, float | None]) -> str:
    if shown["low"] is None:
        return f"{shown['mean']:.3f}"
    return f"{shown['mean']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})"


def _gain(shown: Mapping[str, float | None]) -> str:
    ends = "" if shown["low"] is None else f" ({shown['low']:+.3f} to {shown['high']:+.3f})"
    return f"{shown['mean']:+.3f}{ends}{_p(shown['p'])}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
