"""int8 on CPU against transformers and against the machine's own matmul rate, on Qwen3-Reranker's 0.6B shape.

    python -m memrerank_bench.throughput WORK --tokenizer tokenizer.json --output bench/results/throughput.json

Weights are random, so only speed and memory are measured. Every measurement runs alone in a fresh process, in
rounds (ceiling, memrerank, transformers float32, transformers bfloat16), and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memrerank_bench.child import in_fresh_process
from memrerank_bench.machine import describe_machine
from memrerank_bench.output import write_json
from memrerank_bench.random_checkpoint import CONFIG_06B, write_random_checkpoint

PREFIX, DOCUMENT, DOCUMENTS = 128, 48, 100
"""Tokens before the document, tokens of a document with the prompt's end, documents of a call."""

MEASUREMENTS = ("ceiling", "memrerank", "transformers-float32", "transformers-bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the artifact if it is not there, run the rounds, print and write the figures."""
    options = _parser().parse_args(arguments)
    checkpoint, artifact = _prepare(options.work, options.tokenizer)
    rounds = []
    for i in range(options.rounds):
        found = {}
        for measurement in MEASUREMENTS:
            print(f"round {i + 1} of {options.rounds}: {measurement}", file=sys.stderr)
            found[measurement] = in_fresh_process("measure", measurement, checkpoint, artifact)
        rounds.append(found)
    result = summarize(rounds)
    print(table(result))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, result)
    return 0


def summarize(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds of figures and of the ratios taken within each round."""
    ratios = [_ratios(found) for found in rounds]
    return {
        "machine": describe_machine(),
        "workload": {"prefix_tokens": PREFIX, "document_tokens": DOCUMENT, "documents": DOCUMENTS, "shape": CONFIG_06B},
        "summary": {name: statistics.median(ratio[name] for ratio in ratios) for name in ratios[0]},
        "rounds": rounds,
    }


def table(result: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    found = result["summary"]
    rows = {
        "documents a second": f"{found['documents_per_second']:.1f}",
        "against transformers float32": f"{found['times_transformers_float32']:.1f} times",
        "against transformers bfloat16": f"{found['times_transformers_bfloat16']:.1f} times",
        "tokens a second, the shared prefix counted once": f"{found['tokens_per_second']:.0f}",
        "share of what the linear layers alone allow at the machine's int8 matmul rate": (
            f"{found['share_of_ceiling']:.0%} of {found['tokens_per_second_at_ceiling']:.0f} tokens a second"
        ),
        "resident memory while scoring, against the artifact's size on disk": f"{found['resident_to_artifact']:.2f}",
        "seconds to load without checking hashes": f"{found['load_seconds']:.2f}",
        "seconds to load": f"{found['load_seconds_with_hashes']:.2f}",
    }
    return "\n".join(["| int8 | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _ratios(found: dict[str, Any]) -> dict[str, float]:
    ours, ceiling = found["memrerank"], found["ceiling"]["gop_per_second"] * 1e9 / (2 * linear_macs(CONFIG_06B))
    return {
        "documents_per_second": ours["documents_per_second"],
        "times_transformers_float32": ours["documents_per_second"]
        / found["transformers-float32"]["documents_per_second"],
        "times_transformers_bfloat16": ours["documents_per_second"]
        / found["transformers-bfloat16"]["documents_per_second"],
        "tokens_per_second": ours["tokens_per_second"],
        "tokens_per_second_at_ceiling": ceiling,
        "share_of_ceiling": ours["tokens_per_second"] / ceiling,
        "resident_to_artifact": ours["resident_bytes"] / ours["artifact_bytes"],
        "load_seconds": ours["load_seconds"],
        "load_seconds_with_hashes": ours["load_seconds_with_hashes"],
    }


def linear_macs(c: dict[str, Any]) -> int:
    """Multiply-adds per token of all linear layers."""
    queries, keys = (c[name] * c["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    attention = c["hidden_size"] * (2 * queries + 2 * keys)
    return int(c["num_hidden_layers"] * (attention + 3 * c["hidden_size"] * c["intermediate_size"]))


def _prepare(work: Path, tokenizer: Path) -> tuple[Path, Path]:
    checkpoint, artifact = work / "checkpoint", work / "artifact-int8"
    if not checkpoint.exists():
        write_random_checkpoint(checkpoint, CONFIG_06B, tokenizer)
    if not artifact.exists():
        command = [sys.executable, "-m", "memrerank_export.cli", str(checkpoint), str(artifact), "--precision", "int8"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return checkpoint, artifact


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memrerank_bench.throughput", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("work", type=Path, help="folder for the checkpoint and the artifact (1.8 GB), kept for reuse")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Qwen3's tokenizer.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
