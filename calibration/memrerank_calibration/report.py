"""One HTML file that a person decides by: plots, figures and thresholds of a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from memrerank.calibration import Calibration
from memrerank.files import write_text
from memrerank_calibration import plots
from memrerank_calibration.calibrate import Calibrated
from memrerank_calibration.metrics import INTERVALS
from memrerank_calibration.sample import Sample
from memrerank_calibration.summary import NAMES, PROMISES, describe_data, describe_method, operating_point
from memrerank_calibration.validation import Validation

PAGE = Path(__file__).with_name("report.html")

NAMES_OF_PREDICTIONS = {
    "calibrated": "calibrated",
    "sigmoid": "before: sigmoid of the logit",
    "base rate": "the base rate alone",
}


def write_report(calibrated: Calibrated, path: Path) -> None:
    """Write the report of a calibration; it needs no other file and no network."""
    calibration, manifest = calibrated.calibration, calibrated.manifest
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Calibration of {calibrated.folder.name}"),
        verdict=escape(_verdict(calibration, calibrated.validation)),
        about=_definitions(
            {
                "Artifact": str(calibrated.folder),
                "Model": f"{manifest.architecture}, {manifest.precision}, {manifest.model_id[:19]}…",
                "Data": describe_data(calibration),
                "Method": describe_method(calibration),
            }
        ),
        thresholds=_thresholds(calibration, calibrated.sample),
        operation=plots.precision_and_recall(calibration),
        reliability=_reliability(calibrated.validation),
        metrics=_metrics(calibrated.validation),
        histograms=plots.label_histograms(calibrated.sample),
        curve=plots.curve(calibration),
        base_rate=f"{calibration.base_rate:.1%}",
    )
    write_text(path, page)


def _verdict(calibration: Calibration, validation: Validation | None) -> str:
    if validation is None:
        return "Too few queries to measure the error on queries left out: read the intervals with care."
    after, before = (validation.figures[name] for name in ("calibrated", "sigmoid"))
    error = "smooth_calibration_error"
    low, high = after["intervals"][error]
    return (
        f"On queries it was not fitted on, a probability is off by {after[error]:.3f} on average "
        f"(95% interval {max(low, 0):.3f} to {high:.3f}); the sigmoid of the logit is off by {before[error]:.3f}."
    )


def _definitions(rows: Mapping[str, str]) -> str:
    return "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows.items())


def _thresholds(calibration: Calibration, sample: Sample) -> str:
    rows = []
    for promise in PROMISES:
        point = operating_point(calibration, promise)
        name = f"<code>{escape(str(promise))}</code>"
        if point is None:
            rows.append([name, "none", "not supported by these data"])
        else:
            kept = calibration.probability(sample.logits).astype(np.float32) >= float(point)
            share = float(sample.weights @ kept / sample.weights.sum())
            shares = (point.precision, point.recall, point.false_positive_rate, share)
            rows.append([name, f"{float(point):.3f}", *(f"{value:.1%}" for value in shares)])
    heads = ["promise", "threshold", "precision", "recall", "false positives", "kept of all"]
    return _table(heads, rows)


def _reliability(validation: Validation | None) -> str:
    if validation is None:
        return "<p>Not measured: too few queries to leave some out.</p>"
    return "\n".join(
        f"<figure>{plots.reliability_diagram(validation.predictions[name], validation.sample, label)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for name, label, caption in (
            ("sigmoid", "sigmoid", "Before: the sigmoid of the logit"),
            ("calibrated", "calibrated", "After, on queries left out of the fit"),
        )
    )


def _metrics(validation: Validation | None) -> str:
    if validation is None:
        return ""
    heads = ["", *(NAMES_OF_PREDICTIONS[name] for name in validation.predictions)]
    rows = [
        [escape(label), *(_figure(validation.figures[name], figure) for name in validation.predictions)]
        for figure, label in NAMES.items()
    ]
    gains = "".join(f"<li>{escape(line)}</li>" for line in _gains(validation))
    return f"{_table(heads, rows)}\n<ul>{gains}</ul>"


def _figure(figures: Mapping[str, Any], name: str) -> str:
    if name not in INTERVALS:
        return f"{figures[name]:.4f}"
    low, high = figures["intervals"][name]
    return f"{figures[name]:.4f} <small>[{max(low, 0):.4f}, {high:.4f}]</small>"


def _gains(validation: Validation) -> Iterator[str]:
    for name in ("sigmoid", "base rate"):
        for figure in INTERVALS[1:]:
            low, high = validation.figures[name]["intervals"][f"{figure}_minus_calibrated"]
            verdict = "better" if low > 0 else "worse" if high < 0 else "not clearly other"
            yield (
                f"{NAMES[figure]}: {verdict} than {NAMES_OF_PREDICTIONS[name].removeprefix('before: ')}, "
                f"by {low:.4f} to {high:.4f}"
            )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "\n".join(f"<tr>{_cells(row, len(heads))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _cells(row: list[str], width: int) -> str:
    """Table cells; the last one of a short row fills it."""
    span = f' class="rest" colspan="{width - len(row) + 1}"' if len(row) < width else ""
    return "".join(f"<td>{cell}</td>" for cell in row[:-1]) + f"<td{span}>{row[-1]}</td>"
