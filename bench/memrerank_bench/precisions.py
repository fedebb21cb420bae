"""What each precision costs: disk, time and memory to export and to score, on a published shape with random weights.

    python -m memrerank_bench.precisions WORK --tokenizer tokenizer.json --output bench/results/precisions.json

Every export and every measurement runs alone in a fresh process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from memrerank.manifest import MANIFEST, read_manifest
from memrerank_bench.child import in_fresh_process
from memrerank_bench.machine import describe_machine
from memrerank_bench.output import write_json
from memrerank_bench.random_checkpoint import CONFIG_06B, CONFIG_4B, write_random_checkpoint

SHAPES = {"0.6B": CONFIG_06B, "4B": CONFIG_4B}
RUNS = (("0.6B", "int8"), ("0.6B", "int4"), ("0.6B", "fp16"), ("0.6B", "fp32"), ("4B", "int8"), ("4B", "int4"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is not there, measure, print and write the figures."""
    options = _parser().parse_args(arguments)
    rows = []
    for shape, precision in RUNS:
        print(f"{shape} in {precision}", file=sys.stderr)
        rows.append({"shape": shape, "precision": precision, **_measure(options, shape, precision)})
    result = {"machine": describe_machine(), "rows": rows}
    print(table(result))
    if options.output:
        write_json(options.output, result)
    return 0


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| shape | precision | MB on disk | s to export | MB to export | MB to score | documents/s | weights' error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['shape']} | {row['precision']} | {row['artifact_bytes'] / 1e6:,.0f} | {row['export_seconds']:.0f} "
            f"| {row['export_resident_bytes'] / 1e6:,.0f} | {row['resident_bytes'] / 1e6:,.0f} "
            f"| {row['documents_per_second']:.2g} | {row['weight_error']:.2g} |"
        )
    return "\n".join(lines)


def _measure(options: argparse.Namespace, shape: str, precision: str) -> dict[str, Any]:
    checkpoint, artifact = options.work / shape, options.work / f"{shape}-{precision}"
    if not checkpoint.exists():
        write_random_checkpoint(checkpoint, SHAPES[shape], options.tokenizer, separate_head=shape == "4B")
    exported = _export(checkpoint, artifact, precision)
    scored = in_fresh_process("measure", "precision", checkpoint, artifact)
    errors = [record.error for record in read_manifest(artifact).plan.values()]
    return {**exported, **scored, "weight_error": sum(errors) / len(errors)}


def _export(checkpoint: Path, artifact: Path, precision: str) -> dict[str, Any]:
    """Seconds and resident memory until the artifact is written, which is before it is loaded for its known pair."""
    if artifact.exists():
        raise SystemExit(f"{artifact} exists already; its export is to be measured, so remove it first")
    command = [sys.executable, "-m", "memrerank_export.cli", checkpoint, artifact, "--precision", precision]
    start, resident = time.monotonic(), 0
    with subprocess.Popen([*map(str, command), "--no-fidelity"], stdout=sys.stderr) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None and not (artifact / MANIFEST).exists():
            resident = max(resident, watched.memory_info().rss)
            time.sleep(0.02)
        seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"the export ended with exit code {process.returncode}")
    return {"export_seconds": seconds, "export_resident_bytes": resident}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memrerank_bench.precisions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("work", type=Path, help="folder for checkpoints and artifacts (22 GB)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="Qwen3's tokenizer.json")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
