"""memrerank-bench: how well and how fast an artifact ranks, on your data and your hardware."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memrerank import InputError, MemrerankError
from memrerank.command import run_command

CALLS = 100
"""Calls of a round to a point, at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed or cut short, 2 bad usage."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    options.command = shlex.join(["memrerank-bench", *given])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is measured is kept then, too
    nothing = "interrupted before anything was measured."
    return run_command("memrerank-bench", lambda: options.run(options), interrupted=nothing, extra="bench")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memrerank-bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quality(commands.add_parser("quality", help="how well an artifact ranks labelled data"))
    _add_latency(commands.add_parser("latency", help="how fast an artifact is on this machine, and where time goes"))
    _add_compare(commands.add_parser("compare", help="latency of two artifacts that take turns"))
    return parser


def _add_quality(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Rank the candidates of labelled questions and print MAP, MRR, NDCG and recall with 95% bootstrap intervals "
        "over questions, by category, against the first stage's order, fused with it (reciprocal ranks, k = 60, the "
        "artifact's twice), and against another artifact."
    )
    parser.set_defaults(run=_quality)
    _add_artifact(parser)
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a LoCoMo folder (queries.jsonl, memories_*.jsonl), a BEIR folder (queries.jsonl, corpus.jsonl, "
        "qrels/*.tsv) or a PAIRS.jsonl, whose labels of at least 0.5 are relevant",
    )
    parser.add_argument("--against", metavar="DIR", help="another artifact, to compare with question by question")
    parser.add_argument(
        "--run", dest="candidates", type=Path, metavar="FILE", help="candidates of a BEIR folder, as a TREC run"
    )
    parser.add_argument("--split", help="judgements of a BEIR folder (default: test, or the only ones)")
    parser.add_argument(
        "--category",
        dest="categories",
        action="append",
        metavar="NAME",
        help="questions of this category only; may be repeated (default: all that the data answers)",
    )
    parser.add_argument(
        "--cutoff", dest="cutoffs", type=_counts, default=(10,), metavar="K,K", help="of NDCG and recall (default: 10)"
    )
    parser.add_argument("--sample", type=_count, metavar="N", help="measure on N questions drawn at random")
    parser.add_argument("--threads", type=_count, metavar="N", help="default: the CPUs this process may use")
    _add_outputs(parser)


def _quality(options: argparse.Namespace) -> None:
    from memrerank_bench.described import describe_artifact
    from memrerank_bench.output import check_writable
    from memrerank_bench.quality import measure_quality
    from memrerank_bench.quality_tables import quality_report
    from memrerank_bench.questions import read_questions

    check_writable(options.output)
    data = read_questions(
        options.data,
        split=options.split,
        run=options.candidates,
        categories=options.categories,
        sample=options.sample,
    )
    described = {"artifact": describe_artifact(options.artifact)}
    if options.against:
        described["against"] = describe_artifact(options.against)
    artifacts = [name for name in (options.artifact, options.against) if name]
    measured = measure_quality(artifacts, data, options.cutoffs, device=options.device, threads=options.threads)
    result = {**_provenance(options, "quality"), **described, **measured}
    _keep(options, result)
    _show(options, result, quality_report)


def _add_latency(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time calls over a grid: documents and their lengths in every combination, and other query and context "
        "lengths and numbers of threads at the middle of these. Every round starts fresh processes, which also gives "
        "the cold start; the machine's own matmul rate is measured beside them. Ctrl-C keeps what is measured."
    )
    parser.set_defaults(run=_latency)
    _add_artifact(parser)
    _add_grid(parser)
    _add_outputs(parser)
    _add_html(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time two artifacts over the grid of 'latency', taking turns, and print how many times as long the second "
        "takes. "
        "The quality of both, question by question, is compared by 'quality --against'."
    )
    parser.set_defaults(run=_compare)
    _add_artifact(parser)
    parser.add_argument("other", metavar="OTHER", help="the artifact to compare with")
    _add_grid(parser)
    _add_outputs(parser)
    _add_html(parser)


def _add_grid(parser: argparse.ArgumentParser) -> None:
    def add(name: str, kind: Callable[[str], object], default: object, meaning: str, metavar: str = "N,N") -> None:
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=meaning)

    add("--documents", _counts, (1, 10, 50, 100), "documents of a call (default: 1,10,50,100)")
    add("--document-tokens", _counts, (16, 64, 256), "tokens of a document on average (default: 16,64,256)")
    add("--query-tokens", _counts, (16, 64), "tokens of the query, the usual first (default: 16,64)")
    add("--context-tokens", _sizes, (0, 256), "tokens of dialogue before the query, the usual first (default: 0,256)")
    add("--threads", _counts, None, "numbers of threads, the usual first (default: all CPUs, then 1)")
    add("--spread", _share, 0.5, "lengths of documents vary by this part of their mean (default: 0.5)", "PART")
    add("--rounds", _count, 5, "rounds of fresh processes (default: 5)", "N")
    add("--seconds", _positive, 0.5, "about how long a call is repeated in a round (default: 0.5)", "S")
    add("--limit", _positive, 30.0, "leave out calls that would take longer (default: 30)", "S")


def _latency(options: argparse.Namespace) -> None:
    _measure_latency(options, [options.artifact], "latency")


def _compare(options: argparse.Namespace) -> None:
    if Path(options.artifact).resolve() == Path(options.other).resolve():
        raise InputError(f"{options.artifact} and {options.other} are the same artifact; give two.")
    _measure_latency(options, [options.artifact, options.other], "compare")


def _measure_latency(options: argparse.Namespace, artifacts: Sequence[str], kind: str) -> None:
    from memrerank.files import write_text
    from memrerank.threads import available_cpus
    from memrerank_bench.grid import Grid
    from memrerank_bench.latency import Effort, measure_latency, ratios
    from memrerank_bench.latency_html import latency_html
    from memrerank_bench.latency_tables import latency_report
    from memrerank_bench.output import check_writable

    check_writable(options.output, options.report)
    threads = options.threads or tuple(dict.fromkeys((available_cpus(), 1)))
    grid = Grid(options.documents, options.document_tokens, options.query_tokens, options.context_tokens, threads)
    effort = Effort(options.rounds, options.seconds, CALLS, options.limit, options.spread)
    result = {**_provenance(options, kind), **measure_latency(artifacts, grid, effort, options.device)}
    if len(artifacts) > 1:
        result["ratios"] = ratios(result)
    _keep(options, result)
    if options.report:
        write_text(options.report, latency_html(result))
    _show(options, result, latency_report)


def _keep(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Write a result to --output before anything else is done with it."""
    from memrerank_bench.output import write_json

    if options.output:
        write_json(options.output, result)


def _show(options: argparse.Namespace, result: dict[str, Any], report: Callable[[dict[str, Any]], str]) -> None:
    """Print a result; one that is partial ends as an error."""
    print(json.dumps(result) if options.json else report(result))
    if result["partial"]:
        raise MemrerankError(f"stopped early ({result['partial']}); what was measured is kept and marked partial.")


def _provenance(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    from memrerank_bench.machine import describe_machine

    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"kind": kind, "command": options.command, "date": date, "machine": describe_machine()}


def _add_artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", metavar="ARTIFACT", help="folder written by memrerank-export, or default")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with plots and tables")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the result as JSON")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given, and a whole number of at least 1 was expected")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part) for part in text.split(",")))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(0 if part == "0" else _count(part) for part in text.split(",")))


def _positive(text: str) -> float:
    return _number(text, "a number above 0", lambda value: 0 < value < float("inf"))


def _share(text: str) -> float:
    return _number(text, "a number from 0 to 0.9", lambda value: 0 <= value <= 0.9)


def _number(text: str, expected: str, accepts: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"{text!r} was given, and {expected} was expected")
    return value


if __name__ == "__main__":
    sys.exit(main())
