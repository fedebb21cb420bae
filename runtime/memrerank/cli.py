"""memrerank: rank memories from the shell, and look at artifacts."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from memrerank.artifact import open_artifact
from memrerank.calibration import Calibration
from memrerank.command import run_command
from memrerank.errors import InputError
from memrerank.files import parse_json
from memrerank.manifest import Manifest, read_manifest
from memrerank.memory import Document, as_memory
from memrerank.ranking import Hit, Ranking
from memrerank.reranker import Reranker, artifact_folder
from memrerank.template import render_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 bad usage."""
    options = _parser().parse_args(arguments)
    warnings.formatwarning = lambda message, *_, **__: f"memrerank: {message}\n"
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack characters that memories have
    return run_command("memrerank", lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memrerank", description="Rerank memories inside your own process.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    rerank = commands.add_parser("rerank", help="rank memories by how well they answer a query")
    rerank.set_defaults(run=_rerank)
    rerank.add_argument("query", metavar="QUERY")
    rerank.add_argument(
        "--memories",
        required=True,
        metavar="FILE",
        help='.jsonl: a text or {"text", "time", "speaker"} a line; other files: a text a line; -: standard input',
    )
    rerank.add_argument("--artifact", default="default", metavar="DIR", help="folder written by memrerank-export")
    rerank.add_argument("--top-k", type=int, metavar="N", help="show the best N only")
    rerank.add_argument(
        "--threshold",
        type=_threshold,
        metavar="P",
        help='show hits with at least this score only, or those that a promise keeps, such as "precision>=0.9"',
    )
    rerank.add_argument(
        "--base-rate", type=float, metavar="P", help="share of the memories that are relevant (default: as calibrated)"
    )
    rerank.add_argument("--context", type=Path, metavar="FILE", help="earlier dialogue turns, one a line")
    rerank.add_argument("--time", help="when the question is asked, as ISO 8601")
    rerank.add_argument("--instruction", help="what the ranking is for (default: the artifact's own)")
    rerank.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    rerank.add_argument("--threads", type=int, metavar="N", help="default: the CPUs this process may use")
    rerank.add_argument("--json", action="store_true", help="print the hits as JSON lines")

    info = commands.add_parser("info", help="show what an artifact is")
    info.set_defaults(run=_info)
    info.add_argument("artifact", nargs="?", default="default", metavar="DIR")
    info.add_argument("--json", action="store_true", help="print the manifest as JSON")

    verify = commands.add_parser("verify", help="check that every file of an artifact is whole")
    verify.set_defaults(run=_verify)
    verify.add_argument("artifact", nargs="?", default="default", metavar="DIR")
    return parser


def _rerank(options: argparse.Namespace) -> None:
    memories = _read_memories(options.memories)
    context = [] if options.context is None else _lines(_read_text(options.context))
    reranker = Reranker.load(options.artifact, device=options.device, threads=options.threads)
    ranking = reranker.rerank(
        options.query,
        memories,
        context=context,
        time=options.time,
        instruction=options.instruction,
        top_k=options.top_k,
        threshold=options.threshold,
        base_rate=options.base_rate,
    )
    if ranking.truncated:
        print(f"memrerank: cut to fit: memories {', '.join(map(str, ranking.truncated))}", file=sys.stderr)
    if options.json:
        for hit in ranking:
            print(json.dumps(_as_json(hit)))
    else:
        _print_table(ranking, reranker.manifest)


def _info(options: argparse.Namespace) -> None:
    folder = artifact_folder(options.artifact)
    manifest = read_manifest(folder)
    if options.json:
        print(json.dumps(asdict(manifest), ensure_ascii=False))
    else:
        for name, value in _summary(folder, manifest):
            print(f"{name:14}{value}")


def _verify(options: argparse.Namespace) -> None:
    folder = artifact_folder(options.artifact)
    manifest = open_artifact(folder, verify=True)
    print(f"{folder} is whole: {len(manifest.files)} files, {manifest.model_id}")


def _threshold(text: str) -> float | str:
    """A probability if it is a number; else a promise, which ranking checks."""
    try:
        return float(text)
    except ValueError:
        return text


def _read_memories(name: str) -> list[Document]:
    """The memories in a file, or on standard input, where a first line in braces means JSON lines."""
    text = _read_text(sys.stdin if name == "-" else Path(name))
    as_json = name.endswith(".jsonl") or (name == "-" and text.lstrip().startswith("{"))
    return list(_json_lines(name, text)) if as_json else list(_lines(text))


def _read_text(source: TextIO | Path) -> str:
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source.read()
    except UnicodeDecodeError as error:
        name = source if isinstance(source, Path) else "Standard input"
        raise InputError(f"{name} is not UTF-8 text ({error}).") from error
    return text.removeprefix("\ufeff")


def _json_lines(name: str, text: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield as_memory(parse_json(line), "the memory")
            except ValueError as error:
                raise InputError(f"Line {number} of {name} is not a memory: {error}") from error


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _as_json(hit: Hit[Document]) -> dict[str, Any]:
    document = as_memory(hit.document, "the memory")
    shown = {name: getattr(document, name) for name in ("text", "time", "speaker")}
    scored = {"score": hit.score, "interval": hit.interval, "logit": hit.logit, "band": hit.band}
    return {"index": hit.index, **scored, **shown}


def _print_table(ranking: Ranking[Document], manifest: Manifest) -> None:
    width = shutil.get_terminal_size().columns
    print(f"{'score':>7}  {'#':>4}  memory")
    for hit in ranking:
        text = render_memory(as_memory(hit.document, "the memory"), manifest.template.rendering)
        print(f"{hit.score:7.3f}  {hit.index:4}  {_shorten(text, width - 15)}")
    if not ranking:
        print("  (no memories)")


def _shorten(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= width else line[: max(width - 1, 1)] + "…"


def _summary(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    forms: dict[str, int] = {}
    for record in manifest.plan.values():
        forms[record.form] = forms.get(record.form, 0) + 1
    yield "artifact", str(folder)
    yield "model", f"{manifest.architecture} ({manifest.family}), from {manifest.source.get('checkpoint', 'unknown')}"
    yield "model id", manifest.model_id
    yield "device", manifest.device
    computed = ", computed in fp32" if "fp16" in forms and manifest.device == "cpu" else ""
    counts = ", ".join(f"{n} matrices in {form}" for form, n in forms.items())
    yield "precision", f"{manifest.precision} ({counts}{computed})"
    yield "size", f"{sum(record.size for record in manifest.files.values()) / 1e6:.1f} MB"
    yield "prompt limit", f"{manifest.limits.max_tokens} tokens"
    yield "instruction", "none" if manifest.template.instruction is None else manifest.template.instruction
    yield "calibration", _describe(manifest.calibration)
    yield "fidelity", ", ".join(f"{key} {value}" for key, value in manifest.fidelity.items() if value is not None)


def _describe(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none: scores are sigmoid(logit)"
    data, error = calibration.data, calibration.metrics.get("calibrated", {}).get("smooth_calibration_error")
    measured = "" if error is None else f", error {error:.3f} on queries left out"
    return (
        f"{calibration.method}, from {data['pairs']:,} pairs of {data['file']}, "
        f"{calibration.base_rate:.1%} of them relevant{measured}"
    )


if __name__ == "__main__":
    sys.exit(main())
