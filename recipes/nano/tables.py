"""Print the tables of MODEL_CARD.md and docs/calibration.md from the results, so that text and figures agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LOCOMO = RESULTS.parents[2] / "bench" / "results" / "quality-encoder.json"
CATEGORIES = ("all", "multi-hop", "temporal", "open-domain", "single-hop")
FIGURES = {"smooth_calibration_error": "smooth calibration error", "brier": "Brier score", "log_loss": "log loss"}
PREDICTIONS = ("calibrated", "sigmoid", "base rate")


def read(path: Path) -> dict[str, Any]:
    """The figures in a file of results."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    for row in [heads, ["---"] * len(heads), *rows]:
        yield "| " + " | ".join(row) + " |"


def locomo() -> Iterator[str]:
    """MAP and NDCG on LoCoMo by category, beside the first stage's orders."""
    rows, categories = [], read(LOCOMO)["categories"]
    for name in CATEGORIES:
        found = categories[name]
        first, gain = found["first_stage"], found["gain_over_first_stage"]
        orders = (found["against"], first["bm25"], first["rrf"], found["fused_with_first_stage"]["rrf"])
        own = [_interval(found["artifact"][figure]) for figure in ("MAP", "NDCG@10")]
        gains = [_interval(gain[stage]["MAP"]) for stage in ("bm25", "rrf")]
        rows.append([name, str(found["questions"]), *own, *(_mean(order["MAP"]) for order in orders), *gains])
    heads = [
        "category",
        "n",
        "MAP",
        "NDCG@10",
        "MAP in fp32",
        "of BM25",
        "of the fused list",
        "of model and list fused",
    ]
    yield from table([*heads, "gained on BM25", "gained on the fused list"], rows)


def others() -> Iterator[str]:
    """MAP on what was kept aside."""
    found = read(RESULTS / "test.json")
    names = {
        "test": "test part of the sources, half of the rows dressed as memories",
        "short": "test part of the short written conversations, 50 documents a question",
        "long": "test part of the long ones, the 100 lines or more of the conversation",
        "chat": "test part of the chatty ones, likewise, at most 500 questions",
        "memory": "made-up dialogues of fresh seeds, 16 documents a question",
    }
    rows = [[name, str(found[key]["questions"]), _interval(found[key]["MAP"])] for key, name in names.items()]
    yield from table(["other", "questions", "MAP in int8"], rows)


def calibration() -> Iterator[str]:
    """Error of the calibration on other rows and on LoCoMo."""
    found = read(RESULTS / "calibration.json")
    names = {
        "same_mix": "other documents of the same sources",
        "locomo": "LoCoMo candidates, their base rate given",
        "locomo_own_pairs": "LoCoMo candidates, fitted on 300 pairs of other questions there",
    }
    rows = []
    for key, name in names.items():
        for figure, label in FIGURES.items():
            rows.append([name, label, *(f"{found[key][prediction][figure]:.4f}" for prediction in PREDICTIONS)])
            name = ""
    yield from table(["measured on", "", "calibrated", "sigmoid of the logit", "base rate alone"], rows)


def sources() -> Iterator[str]:
    """Error where the calibration comes from one source alone."""
    found = read(RESULTS / "calibration.json")["between_sources"]
    keys = ("mean_error", "mean_error_with_base_rate", "worst_error_with_base_rate")
    rows = [[name, str(row["pairs"]), *(f"{row[key]:.3f}" for key in keys)] for name, row in found.items()]
    yield from table(["fitted on", "pairs", "mean error", "with the base rate given", "worst of these"], rows)


def promises() -> Iterator[str]:
    """What was promised on LoCoMo at its base rate, and what came of it."""
    found = read(RESULTS / "calibration.json")["locomo_promises"]
    rows = [
        [
            f"precision>={value}",
            *(("not supported", "") if row is None else (f"{row['precision']:.3f}", f"{row['recall']:.3f}")),
        ]
        for value, row in found.items()
    ]
    yield from table(["promise", "precision there", "recall there"], rows)


def precisions() -> Iterator[str]:
    """Shares of documents that thresholds select in int8 and in fp32."""
    found = read(RESULTS / "calibration.json")["selected_int8_fp32"]
    rows = [[name, *(f"{share:.1%}" for share in shares)] for name, shares in found.items()]
    yield from table(["threshold", "selected by int8", "by fp32"], rows)


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _mean(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.3f}"


TABLES = (locomo, others, calibration, sources, promises, precisions)


def main() -> None:
    """Print every table."""
    for make in TABLES:
        print("\n".join(make()), end="\n\n")


if __name__ == "__main__":
    main()
