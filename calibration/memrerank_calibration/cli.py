"""memrerank-calibrate: gives an artifact probabilities, and thresholds that keep their promise."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memrerank import InputError
from memrerank.command import run_command
from memrerank.reranker import artifact_folder

if TYPE_CHECKING:
    from memrerank_calibration.calibrate import Calibrated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    unchanged = "interrupted; the artifact is as it was."
    return run_command("memrerank-calibrate", lambda: _run(options), interrupted=unchanged, extra="calibration")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memrerank-calibrate",
        description="Score labelled pairs with an artifact, fit the probability that a document with such a score is "
        "relevant, and store it in the artifact's manifest. Prints the error before and after, measured by "
        "cross-validation over queries.",
    )
    parser.add_argument("artifact", metavar="ARTIFACT", help="folder of an artifact; default: the embedded model")
    parser.add_argument(
        "pairs",
        type=Path,
        metavar="PAIRS.jsonl",
        help='{"query", "document", "label"} a line, with a label from 0 to 1; optionally "context", "time", "weight"',
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write a calibrated copy there; the artifact stays")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write plots and tables to decide by")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--json", action="store_true", help="print the calibration as JSON")
    return parser


def _run(options: argparse.Namespace) -> None:
    calibrated = run_calibration(
        artifact_folder(options.artifact), options.pairs, options.output, options.report, options.device
    )
    if options.json:
        print(json.dumps({"artifact": str(calibrated.folder), **asdict(calibrated.calibration)}))
    else:
        from memrerank_calibration.summary import summary

        print(summary(calibrated))


def run_calibration(
    artifact: Path, pairs: Path, output: Path | None = None, report: Path | None = None, device: str = "auto"
) -> Calibrated:
    """Calibrate with a progress bar, and write the report if one is asked for."""
    from tqdm import tqdm

    from memrerank_calibration.calibrate import calibrate

    if report is not None and not (os.access(report.parent, os.W_OK) and not report.is_dir()):
        raise InputError(f"{report} cannot be written; give --report a file in a folder that exists.")
    with tqdm(desc="score pairs", unit=" pairs", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        calibrated = calibrate(artifact, pairs, output, show, device)
    if report is not None:
        from memrerank_calibration.report import write_report

        write_report(calibrated, report)
    return calibrated


if __name__ == "__main__":
    sys.exit(main())
