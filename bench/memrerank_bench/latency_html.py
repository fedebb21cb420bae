"""The page of `memrerank-bench latency --report`: one file with plots and tables, which needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from memrerank_bench.latency_growth import growth_table
from memrerank_bench.latency_plots import breakdown_plot, documents_plot, lengths_plot, others_plot, ratios_plot
from memrerank_bench.latency_tables import (
    breakdown_table,
    cold_start_table,
    facts,
    headline,
    notes,
    point_in_words,
    points_table,
    ratios_table,
)
from memrerank_bench.machine import in_words

Result = Mapping[str, Any]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; } h3 { margin-top: 1.8rem; }
.scroll { overflow-x: auto; } .partial { background: #fff3cd; padding: .6rem 1rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { background: #f5f5f5; }
.scroll { margin: 1rem 0; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots img { width: 32rem; max-width: 100%; height: auto; }
code { background: #f5f5f5; overflow-wrap: anywhere; } .facts { color: #555; }
"""


def latency_html(result: Result) -> str:
    """The page."""
    title = f"memrerank on {result['machine']['processor'].split(',')[0]}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *_body(result),
            "</body></html>\n",
        ]
    )


def _body(result: Result) -> Iterator[str]:
    if result["partial"]:
        yield f'<p class="partial">Partial: {escape(result["partial"])}. What was measured until then is shown.</p>'
    yield f"<p>{escape(in_words(result['machine']))}</p>"
    yield f'<p class="facts">{escape(result["date"])}: <code>{escape(result["command"])}</code></p>'
    if "ratios" in result:
        yield "<h2>Compared</h2>"
        yield _images([ratios_plot(result)])
        yield _table(ratios_table(result))
    for name, found in result["artifacts"].items():
        yield from _artifact(name, found)


def _artifact(name: str, found: Result) -> Iterator[str]:
    yield f"<h2>{escape(name)}</h2><p><strong>{escape(headline(found))}</strong></p><p>{escape(facts(found))}</p>"
    yield from (f"<p>{escape(note)}</p>" for note in notes(found))
    if not found["points"]:
        return
    yield "<h3>Latency</h3>"
    plots = [documents_plot(found), lengths_plot(found), *([] if (other := others_plot(found)) is None else [other])]
    yield _images(plots)
    yield _table(points_table(found))
    if growth := growth_table(found):
        yield f"<h3>How cost grows</h3>{_table(growth)}"
    yield f"<h3>Cold start</h3>{_table(cold_start_table(found))}"
    if found["breakdown"]:
        yield f"<h3>Where the time goes: {escape(point_in_words(found['breakdown']['point']))}</h3>"
        yield _images([breakdown_plot(found["breakdown"])])
        yield _table(breakdown_table(found))


def _images(figures: list[Figure]) -> str:
    return f'<div class="plots">{"".join(_image(figure) for figure in figures)}</div>'


def _image(figure: Figure) -> str:
    data = BytesIO()
    figure.savefig(data, format="png", dpi=150)
    described = escape(figure.get_suptitle(), quote=True)
    return f'<img alt="{described}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'


def _table(markdown: str) -> str:
    """A Markdown table as HTML."""
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in markdown.splitlines()]
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
