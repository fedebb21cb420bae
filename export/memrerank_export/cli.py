"""memrerank-export: from a checkpoint folder to an artifact folder."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memrerank import MemrerankError
from memrerank.manifest import Manifest
from memrerank_export.config import PRECISIONS

if TYPE_CHECKING:
    from tqdm import tqdm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except MemrerankError as error:
        return _fail(str(error))
    except ImportError as error:
        return _fail(f"{error.name} is not installed; pip install 'memrerank[export]' brings what exporting needs.")
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memrerank-export",
        description="Turn the checkpoint of a Qwen3 reranker (Qwen3-Reranker, MemReranker) into an artifact that "
        "memrerank runs with ONNX Runtime. Prints the size, the error of the weights and the fidelity of the scores.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="folder with config.json, *.safetensors and tokenizer.json"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write; it must not exist")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="int8 (default): 8-bit weights and activations; fp32: as the checkpoint",
    )
    parser.add_argument("--device", choices=("cpu",), default="cpu", help="the device that the artifact will run on")
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE.jsonl",
        help="pairs on which scores are compared with the checkpoint's own (default: built-in ones)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _run(options: argparse.Namespace) -> None:
    from memrerank_calibration.pairs import read_pairs
    from memrerank_export.export import export
    from memrerank_export.fidelity import built_in_pairs

    pairs = read_pairs(options.pairs) if options.pairs else built_in_pairs()
    start = time.monotonic()
    bars = ProgressBars()
    try:
        manifest = export(options.checkpoint, options.output, options.precision, pairs, bars)
    finally:
        bars.close()
    seconds = time.monotonic() - start
    print(
        json.dumps(_as_json(manifest, options.output, seconds))
        if options.json
        else _report(manifest, options.output, seconds)
    )


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
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, disable=None)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the present bar."""
        if self._bar is not None:
            self._bar.close()


def _report(manifest: Manifest, output: Path, seconds: float) -> str:
    size = sum(record.size for record in manifest.files.values())
    lines = [
        f"{output}: {manifest.architecture}, {manifest.precision}, {size / 1e6:.1f} MB in {seconds:.0f} s",
        *(f"  {name:16} {record.size / 1e6:10.1f} MB" for name, record in manifest.files.items()),
        f"weights: {_weight_errors(manifest)}",
        f"fidelity: {_fidelity(manifest)}",
        f"try it: memrerank rerank QUERY --memories FILE.jsonl --artifact {output}",
    ]
    return "\n".join(lines)


def _weight_errors(manifest: Manifest) -> str:
    worst = sorted(manifest.plan.items(), key=lambda item: -item[1].error)[:3]
    if not worst or worst[0][1].error == 0:
        return "stored exactly"
    mean = sum(record.error for record in manifest.plan.values()) / len(manifest.plan)
    named = ", ".join(f"{name} {record.error:.4f}" for name, record in worst)
    return f"relative error {mean:.4f} on average over {len(manifest.plan)} matrices; largest {named}"


def _fidelity(manifest: Manifest) -> str:
    found = manifest.fidelity
    if found["reference"] is None:
        return f"null, because {found['reason']}"
    tau = "not defined" if found["kendall_tau"] is None else f"{found['kendall_tau']:.4f}"
    return (
        f"logits differ by at most {found['max_difference']:.4g} and {found['mean_difference']:.4g} on average, "
        f"Kendall's tau {tau} ({found['pairs']} pairs, against {found['reference']})"
    )


def _as_json(manifest: Manifest, output: Path, seconds: float) -> dict[str, object]:
    return {
        "output": str(output),
        "seconds": round(seconds, 1),
        **{key: value for key, value in asdict(manifest).items() if key != "template"},
    }


def _fail(reason: str) -> int:
    print(f"memrerank-export: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
