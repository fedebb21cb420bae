"""Draw the loss of one or more runs, one after the other: python recipes/nano/plot.py LOG [LOG ...] --output FILE."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def read(logs: list[Path]) -> dict[str, list[float]]:
    """Steps, counted through all logs, with their losses and learning rates; a step that was redone counts once."""
    steps: dict[int, dict[str, float]] = {}
    before = 0
    for log in logs:
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        steps |= {before + row["step"]: row for row in rows}
        before = max(steps)
    names = ("contrast", "entropy", "lr")
    return {"step": [float(step) for step in steps]} | {name: [row[name] for row in steps.values()] for name in names}


def smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """An exponential moving average."""
    found = [values[0]]
    for value in values[1:]:
        found.append(keep * found[-1] + (1 - keep) * value)
    return found


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path, nargs="+", help="log.jsonl of each run, in order")
    parser.add_argument("--output", type=Path, required=True, help="image to write")
    options = parser.parse_args(argv)
    curves = read(options.logs)
    figure, axis = pyplot.subplots(figsize=(8, 4))
    for name, label in (("contrast", "InfoNCE"), ("entropy", "cross-entropy")):
        line = axis.plot(curves["step"], smooth(curves[name]), label=label)[0]
        axis.plot(curves["step"], curves[name], color=line.get_color(), alpha=0.15, linewidth=0.5)
    rate = axis.twinx()
    rate.plot(curves["step"], curves["lr"], color="grey", linestyle=":", label="learning rate")
    axis.set(xlabel="step", ylabel="loss", ylim=(0, 2))
    rate.set(ylabel="learning rate", ylim=(0, None))
    axis.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
