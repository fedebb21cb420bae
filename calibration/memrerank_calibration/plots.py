"""The pictures of a calibration, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memrerank.calibration import Calibration
from memrerank_calibration.metrics import reliability
from memrerank_calibration.sample import Array, Sample

BLUE, ORANGE, GREY = "#2563a8", "#d97706", "#8a8f98"
SIZE = (6.0, 4.4)


def svg(draw: Callable[[Figure], None]) -> str:
    """What `draw` draws, as an SVG element without an XML header; the same data give the same text."""
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def reliability_diagram(probabilities: Array, sample: Sample, name: str) -> str:
    """The share of relevant pairs against the probability, in bins of equal weight, above the counts."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        table = reliability(probabilities, sample)
        above.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
        above.plot(table[:, 0], table[:, 1], "o-", color=BLUE, label=f"{name}, bins of equal weight")
        above.set(ylabel="share relevant", xlim=(0, 1), ylim=(-0.02, 1.02))
        above.legend(loc="upper left", frameon=False)
        below.hist(probabilities, bins=np.linspace(0, 1, 41).tolist(), weights=sample.weights, color=BLUE)
        below.set(xlabel="probability", ylabel="pairs", yscale="log")
        _plain(above, below)

    return svg(draw)


def label_histograms(sample: Sample) -> str:
    """Logits of relevant and irrelevant pairs."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = np.linspace(sample.logits.min(), sample.logits.max(), 51).tolist()
        for name, share, color in (("irrelevant", 1 - sample.labels, GREY), ("relevant", sample.labels, BLUE)):
            axes.hist(sample.logits, edges, weights=sample.weights * share, color=color, alpha=0.65, label=name)
        axes.set(xlabel="logit", ylabel="pairs (logarithmic)", yscale="log")
        axes.legend(frameon=False)
        _plain(axes)

    return svg(draw)


def curve(calibration: Calibration) -> str:
    """The probability by logit with its interval, and the sigmoid that it replaces."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        fitted = calibration.curve
        axes.fill_between(fitted.logits, fitted.low, fitted.high, color=BLUE, alpha=0.2, label="95% interval")
        axes.plot(fitted.logits, fitted.probabilities, color=BLUE, label="calibrated")
        logits = np.linspace(fitted.logits[0], fitted.logits[-1], 200)
        axes.plot(logits, 1 / (1 + np.exp(-logits)), color=GREY, linestyle="--", label="sigmoid of the logit")
        axes.set(xlabel="logit", ylabel="probability", ylim=(-0.02, 1.02))
        axes.legend(frameon=False)
        _plain(axes)

    return svg(draw)


def precision_and_recall(calibration: Calibration) -> str:
    """Precision and recall of every threshold, with the limits that promises are checked against."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        points = calibration.points
        thresholds = calibration.probability(points.logits)
        for name, color in (("precision", BLUE), ("recall", ORANGE)):
            value, low = getattr(points, name), getattr(points, f"{name}_low")
            axes.plot(thresholds, value, color=color, label=name)
            axes.plot(thresholds, low, color=color, linewidth=1, linestyle=":", label=f"{name}, lower 97.5% limit")
        axes.set(xlabel="threshold (probability)", ylabel="share", xlim=(0, 1), ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="lower center")
        _plain(axes)

    return svg(draw)


def _plain(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
