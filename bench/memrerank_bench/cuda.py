"""Artifacts on a GPU: correctness, latency, throughput, memory and where the time goes, against transformers.

    python -m memrerank_bench.cuda --output bench/results/cuda.json

That is all, from a clone on a machine with a GPU, with memrerank[gpu,export], torch and transformers. Checkpoints of
random weights and artifacts are made in --work first. Every figure is in --output as soon as it is measured; the same
command goes on where it was stopped. Parts come in the order of what one wants to know first, and --minutes ends the
work in good order. --device cpu tries the script without a GPU (with --shapes tiny).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from memrerank_bench.output import write_json

Part = tuple[str, ...]
"""The name of a function of `measure_cuda`, and the shape and precision that it is for."""

Figures = dict[str, Any]
Run = Callable[[Part, argparse.Namespace, Sequence[str]], Iterator[tuple[str, Figures]]]
"""Does a part without the figures that are there already: yields the others, each with its name."""

PRECISIONS = ("fp16", "int8", "int4")
SHAPES = ("0.6B", "tiny", "tiny-large", "4B")
HEADLINE, FULL = "100x128x48", "500x128x48"
"""Documents x tokens before the document x tokens of a document, of the goals."""

TOKENIZER = Path(__file__).parents[2] / "tests" / "data" / "qwen3_tokenizer.json.xz"


def main(arguments: Sequence[str] | None = None, run: Run | None = None) -> int:
    """Do the parts that are not done; 1 where one failed or time ran out."""
    options = _parser().parse_args(arguments)
    result = json.loads(options.output.read_text()) if options.output.is_file() else {"parts": {}}
    end = time.monotonic() + 60 * options.minutes
    complete = True
    for part in parts(options.shapes, options.precisions, options.device):
        found = result["parts"].setdefault(" ".join(part), {"done": False, "figures": {}})
        if not found["done"]:
            _do(part, options, found, lambda: _save(options.output, result), run or in_process_of_its_own, end)
        complete = complete and found["done"]
    print(table(result))
    return 0 if complete else 1


def parts(shapes: Sequence[str], precisions: Sequence[str], device: str) -> Iterator[Part]:
    """What there is to do, in order; the speed of tiny shapes is of no interest but to try the script on a CPU."""
    yield ("machine",)
    for shape in shapes:
        timed = device == "cpu" or not shape.startswith("tiny")
        yield ("checkpoint", shape)
        for i, precision in enumerate(precisions):
            for name in ("export", "correctness", *(["speed"] if timed else [])):
                yield (name, shape, precision)
            if timed and i == 0:
                yield ("transformers", shape)
        for precision in precisions if timed else ():
            yield ("variants", shape, precision)


def _do(
    part: Part, options: argparse.Namespace, found: dict[str, Any], save: Callable[[], None], run: Run, end: float
) -> None:
    """Add the figures of a part to `found`, and save each as it comes."""
    if time.monotonic() > end:
        return
    print(f"{time.strftime('%H:%M:%S')} {' '.join(part)}", file=sys.stderr, flush=True)
    options.seconds = end - time.monotonic()
    try:
        for name, figures in run(part, options, list(found["figures"])):
            found["figures"][name] = figures
            save()
        found["done"] = True
        found.pop("error", None)
    except (OSError, RuntimeError) as error:
        found["error"] = str(error)
        print(f"  {error}", file=sys.stderr)
    save()


def in_process_of_its_own(
    part: Part, options: argparse.Namespace, done: Sequence[str]
) -> Iterator[tuple[str, Figures]]:
    """The figures that a part prints, a line of JSON each; RuntimeError with its last words where it fails."""
    command = [sys.executable, "-m", "memrerank_bench.measure_cuda", json.dumps([part, described(options), done])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        words: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=lambda stream=process.stderr: words.extend(stream))
        reader.start()
        stop = threading.Timer(options.seconds, _end, [process])
        stop.start()
        try:
            for line in process.stdout:
                if line.startswith('{"measured"'):  # libraries print, too
                    found = json.loads(line)
                    yield found["measured"], found["figures"]
        finally:
            stop.cancel()
            _end(process)
            reader.join()
    if process.returncode:
        raise RuntimeError("".join(words[-15:]).strip() or "time ran out")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def described(options: argparse.Namespace) -> dict[str, Any]:
    """The options that parts read, as JSON has them."""
    names = ("device", "documents", "prefixes", "lengths", "repeat")
    return {name: getattr(options, name) for name in names} | {
        "work": str(options.work),
        "tokenizer": str(options.tokenizer),
    }


def summarize(result: dict[str, Any], shape: str, precision: str) -> dict[str, float | None]:
    """The figures that the goals are about; None where one is not measured."""
    figures = {name.split()[0]: part["figures"] for name, part in result["parts"].items() if _is_for(name, shape, "")}
    ours = result["parts"].get(f"speed {shape} {precision}", {"figures": {}})["figures"]
    theirs = figures.get("transformers", {})
    machine = result["parts"].get("machine", {"figures": {}})["figures"].get("machine", {})
    rate = machine.get("matmul_tflops")
    call, many = ours.get(HEADLINE), ours.get(FULL)
    theirs_call = theirs.get(HEADLINE)
    return {
        "p50_ms": call and call["p50_ms"],
        "p95_ms": call and call["p95_ms"],
        "documents_per_second": call and call["documents_per_second"],
        "times_transformers_fp16": call
        and theirs_call
        and call["documents_per_second"] / theirs_call["documents_per_second"],
        "share_of_matmul_rate": many and rate and many["tflops"] / rate,
        "largest_memory_mb": ours.get("memory") and ours["memory"]["largest_bytes"] / 1e6,
    }


def table(result: dict[str, Any]) -> str:
    """The goals' figures of every shape and precision measured, as a Markdown table."""
    lines = [
        "| shape | precision | p50 ms | p95 ms | documents/s | times transformers fp16 | share of matmul rate | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in result["parts"]:
        if name.startswith("speed "):
            _, shape, precision = name.split()
            found = summarize(result, shape, precision).values()
            shown = ["" if value is None else f"{value:.3g}" for value in found]
            lines.append(f"| {' | '.join([shape, precision, *shown])} |")
    return "\n".join(lines)


def _is_for(name: str, shape: str, precision: str) -> bool:
    return name.split()[1:] == [part for part in (shape, precision) if part]


def _save(output: Path, result: dict[str, Any]) -> None:
    """Write all figures, replacing the old ones in one step."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m memrerank_bench.cuda", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the figures, gone on from if there")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("artifacts/cuda"),
        help="folder for checkpoints and artifacts, kept (0.6B: 4 GB, 4B: 24 GB; default: %(default)s)",
    )
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="Qwen3's tokenizer.json, or that with .xz")
    parser.add_argument("--minutes", type=float, default=9.5, help="begin nothing after so long (default: %(default)s)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--shapes", type=_names, default=SHAPES, help=f"default: {','.join(SHAPES)}; tiny-large has large activations"
    )
    parser.add_argument("--precisions", type=_names, default=list(PRECISIONS), help="default: fp16,int8,int4")
    parser.add_argument("--documents", type=_numbers, default=[100, 500, 10, 50], help="of a call")
    parser.add_argument("--prefixes", type=_numbers, default=[128, 512], help="tokens before the document")
    parser.add_argument("--lengths", type=_numbers, default=[48, 200], help="tokens of a document")
    parser.add_argument("--repeat", type=int, default=20, help="calls for a percentile (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
