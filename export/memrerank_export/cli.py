"""memrerank-export: from a checkpoint to an artifact folder."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memrerank.command import run_command
from memrerank_export.config import DEVICES, PRECISIONS

if TYPE_CHECKING:
    from tqdm import tqdm

    from memrerank.manifest import Manifest
    from memrerank_calibration.pairs import Pair
    from memrerank_export.source import Source


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends as an exception does: nothing is left behind
    again = f"interrupted; run the same command again, which goes on from {options.output} if that is written."
    return run_command("memrerank-export", lambda: _run(options), interrupted=again, extra="export")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memrerank-export",
        description="Turn the checkpoint of a reranker (Qwen3-Reranker, MemReranker, mxbai-rerank-v2, or a BERT-like "
        "cross-encoder) into an artifact that memrerank runs with ONNX Runtime. Prints the size, the error of the "
        "weights and the fidelity of the scores.",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="folder with config.json, *.safetensors and tokenizer.json, or the id of a repository on the hub",
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="folder to write; an export that was interrupted there is completed"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="int8 (default): 8-bit weights and activations, the fastest; int4: 4-bit weights, the smallest; "
        "fp16: 16-bit weights, computed in fp32 on a CPU; fp32",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="the device that the artifact will run on; cuda: activations in 16 bits, decoders only (no GPU is needed "
        "to export)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a repository on the hub")
    parser.add_argument(
        "--template", type=Path, metavar="FILE.json", help="the prompt, for a checkpoint that wants another than usual"
    )
    parser.add_argument("--instruction", metavar="TEXT", help="the instruction that a call without one will use")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and the size and memory")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="PAIRS.jsonl",
        help="calibrate the artifact on labelled pairs, as memrerank-calibrate does",
    )
    fidelity = parser.add_mutually_exclusive_group()
    fidelity.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE.jsonl",
        help="pairs on which scores are compared with the checkpoint's own (default: built-in ones)",
    )
    fidelity.add_argument("--no-fidelity", action="store_true", help="do not compare scores with the checkpoint's own")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _run(options: argparse.Namespace) -> None:
    from memrerank_export.estimate import estimate
    from memrerank_export.export import export
    from memrerank_export.report import estimate_report, export_report

    source = _source(options)
    if options.dry_run:
        planned = estimate(source, options.precision, options.device)
        print(json.dumps(asdict(planned)) if options.json else estimate_report(planned))
        return
    start = time.monotonic()
    if options.calibrate:
        _check_calibration(options.calibrate)
    bars = ProgressBars()
    try:
        manifest = export(source, options.output, options.precision, _pairs(options), bars, device=options.device)
    finally:
        bars.close()
    if options.calibrate:
        manifest = _calibrate(options)
    seconds = round(time.monotonic() - start, 1)
    if options.json:
        shown = {key: value for key, value in asdict(manifest).items() if key != "template"}
        print(json.dumps({"output": str(options.output), "seconds": seconds, **shown}))
    else:
        print(export_report(manifest, options.output, seconds))


def _calibrate(options: argparse.Namespace) -> Manifest:
    """The manifest after calibration, whose result is printed for people."""
    from memrerank_calibration.cli import run_calibration
    from memrerank_calibration.summary import summary

    calibrated = run_calibration(options.output, options.calibrate)
    if not options.json:
        print(summary(calibrated) + "\n")
    return calibrated.manifest


def _source(options: argparse.Namespace) -> Source:
    from memrerank_export.hub import find_checkpoint
    from memrerank_export.prompts import read_prompt
    from memrerank_export.source import read_source

    prompt = read_prompt(options.template) if options.template else None
    origin = find_checkpoint(options.checkpoint, options.revision, with_weights=not options.dry_run)
    return read_source(origin, prompt, options.instruction)


def _pairs(options: argparse.Namespace) -> list[Pair] | None:
    from memrerank_calibration.pairs import read_pairs
    from memrerank_export.fidelity import built_in_pairs

    if options.no_fidelity:
        return None
    return read_pairs(options.pairs) if options.pairs else built_in_pairs()


def _check_calibration(pairs: Path) -> None:
    """Find out before the export whether the calibration after it can work."""
    import memrerank_calibration.calibrate
    from memrerank_calibration.pairs import read_pairs

    assert memrerank_calibration.calibrate  # its libraries are installed
    read_pairs(pairs)


class ProgressBars:
    """A bar for each stage of the work, one after the other, where standard error is a terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: tqdm[None] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are done."""
        from tqdm import tqdm

        if self._bar is None or self._stage != stage:
            self.close()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, disable=None, unit_scale=True)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the present bar."""
        if self._bar is not None:
            self._bar.close()


if __name__ == "__main__":
    sys.exit(main())
