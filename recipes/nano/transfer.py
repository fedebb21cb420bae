"""Measure how far a calibration holds: on other rows, other sources, another precision, and on LoCoMo.

LoCoMo only measures; what is fitted on pairs of it, to show what a few pairs of one's own do, is not kept.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from evaluate import part_groups
from memrerank import CalibrationError, Memory, Reranker
from memrerank.calibration import Calibration, with_base_rate
from memrerank.promise import Promise
from memrerank_bench.questions import read_questions
from memrerank_calibration.calibrate import calibration_of
from memrerank_calibration.fit import fit
from memrerank_calibration.metrics import measure
from memrerank_calibration.operating_points import operating_points
from memrerank_calibration.sample import Sample, make_sample

FIGURES = ("smooth_calibration_error", "brier", "log_loss")
SPLITS = 100
OWN_PAIRS, OWN_POSITIVES = 300, 60
PROMISED = Promise("precision", 0.9)
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)

Queries = list[tuple[str, Sequence[str | Memory], list[float], str]]
"""Query, documents, labels and source."""


def part_queries(data: Path, part: str, limit: int) -> Queries:
    """The rows of a part of the data folder."""
    groups = part_groups(data, part, limit)
    return [(group.query, list(group.documents), list(group.labels), group.source) for group in groups]


def locomo_queries(folder: Path, limit: int) -> Queries:
    """The questions of LoCoMo with their candidates."""
    return [
        (
            each.query,
            list(each.candidates.values()),
            [float(name in each.relevance) for name in each.candidates],
            "locomo",
        )
        for each in read_questions(folder).questions[:limit]
    ]


def scored(reranker: Reranker, queries: Queries) -> tuple[Sample, np.ndarray]:
    """The sample that an artifact's scores make, and the source of each pair."""
    logits = [reranker.score(query, documents, raw=True) for query, documents, _, _ in tqdm(queries, disable=None)]
    sizes = [len(documents) for _, documents, _, _ in queries]
    labels = np.concatenate([labels for _, _, labels, _ in queries])
    sources = np.repeat([source for _, _, _, source in queries], sizes)
    return make_sample(np.concatenate(logits), labels, queries=np.repeat(np.arange(len(queries)), sizes)), sources


def against_simpler(probabilities: np.ndarray, sample: Sample) -> dict[str, Any]:
    """Figures of the calibration, of the sigmoid, and of the base rate alone."""
    predictions = {
        "calibrated": probabilities,
        "sigmoid": expit(sample.logits),
        "base rate": np.full(len(sample.logits), sample.base_rate),
    }
    found: dict[str, Any] = {"pairs": len(sample.logits), "base_rate": round(sample.base_rate, 4)}
    return found | {name: _rounded(measure(values, sample)) for name, values in predictions.items()}


def predicted(fitted_on: Sample, sample: Sample) -> np.ndarray:
    """Probabilities from a fit to one sample for another one, whose base rate is given."""
    return with_base_rate(fit(fitted_on).predict(sample.logits), fitted_on.base_rate, sample.base_rate)


def with_own_pairs(sample: Sample, times: int = 20) -> dict[str, Any]:
    """Fit 300 pairs of some queries, 60 of them relevant; measure on the other queries at their own base rate."""
    found = []
    for first, rest in _halves(sample, times):
        rng = np.random.default_rng(len(found))
        relevant, irrelevant = np.flatnonzero(first.labels > 0), np.flatnonzero(first.labels == 0)
        chosen = [rng.choice(relevant, OWN_POSITIVES), rng.choice(irrelevant, OWN_PAIRS - OWN_POSITIVES)]
        own = first.take(np.unique(np.concatenate(chosen)))
        found.append(against_simpler(predicted(own, rest), rest))
    names = ("calibrated", "sigmoid", "base rate")
    means = {name: {figure: _mean(row[name][figure] for row in found) for figure in FIGURES} for name in names}
    return {"draws": times, **means}


def promise_in_splits(sample: Sample, promise: Promise, times: int) -> dict[str, Any]:
    """Promise a precision on one half of the queries and look on the other; the oracle knows the other half."""
    kept = unsupported = 0
    recalls, oracles = [], []
    for first, rest in tqdm(_halves(sample, times), total=times, disable=None):
        points = {name: np.array(values) for name, values in vars(operating_points(first)).items()}
        held = np.flatnonzero(promise.kept_by(points))
        if not held.size:
            unsupported += 1
            continue
        selected = rest.logits >= points["logits"][held[-1]]
        noise = 1.645 * np.sqrt(promise.value * (1 - promise.value) / selected.sum())
        kept += bool(rest.labels[selected].mean() >= promise.value - noise)
        recalls.append(rest.labels[selected].sum() / rest.labels.sum())
        oracles.append(_oracle_recall(rest, promise.value))
    return {
        "promise": str(promise),
        "splits": times,
        "kept": kept,
        "unsupported": unsupported,
        "recall": _mean(recalls),
        "oracle_recall": _mean(oracles),
    }


def between_sources(sample: Sample, sources: np.ndarray, other: Sample, others: np.ndarray) -> dict[str, Any]:
    """Fit on one source and measure on the others, with their base rates given and without."""
    found = {}
    for source in np.unique(sources):
        own = sample.take(sources == source)
        if min(own.positives, own.negatives) < 30:
            continue
        given, not_given = [], []
        for target in np.unique(others[others != source]):
            rest = other.take(others == target)
            if min(rest.positives, rest.negatives) >= 30:
                given.append(measure(predicted(own, rest), rest)[FIGURES[0]])
                not_given.append(measure(fit(own).predict(rest.logits), rest)[FIGURES[0]])
        if not given:
            continue
        found[str(source)] = {
            "pairs": len(own.logits),
            "mean_error": _mean(not_given),
            "mean_error_with_base_rate": _mean(given),
            "worst_error_with_base_rate": round(max(given), 4),
        }
    return found


def between_precisions(calibration: Calibration, one: Sample, other: Sample) -> dict[str, list[float]]:
    """Shares of documents that the same thresholds select from the scores of two artifacts."""
    shares = {}
    for threshold in THRESHOLDS:
        shares[str(threshold)] = [
            round(float((calibration.probability(sample.logits) >= threshold).mean()), 4) for sample in (one, other)
        ]
    return shares


def promises_at(calibration: Calibration, sample: Sample) -> dict[str, Any]:
    """Precision promised for the base rate of `sample`, and what it is there; None where nothing is selected."""
    found: dict[str, Any] = {}
    for value in (0.3, 0.4, 0.5, 0.7, 0.9):
        try:
            threshold = calibration.threshold(Promise("precision", value), sample.base_rate)
        except CalibrationError:
            threshold = math.inf
        kept = calibration.probability(sample.logits, sample.base_rate) >= threshold
        if not kept.any():
            found[str(value)] = None
            continue
        recall = sample.labels[kept].sum() / sample.labels.sum()
        found[str(value)] = {"precision": _mean(sample.labels[kept]), "recall": round(float(recall), 4)}
    return found


def _halves(sample: Sample, times: int) -> Iterator[tuple[Sample, Sample]]:
    """The sample cut into two halves without a common query, again and again."""
    rng = np.random.default_rng(0)
    for _ in range(times):
        chosen = np.isin(sample.queries, rng.permutation(np.unique(sample.queries))[::2])
        yield sample.take(chosen), sample.take(~chosen)


def _oracle_recall(sample: Sample, precision: float) -> float:
    """The recall of the loosest threshold that has the precision, by the labels themselves."""
    labels = sample.labels[np.argsort(-sample.logits, kind="stable")]
    precisions = np.cumsum(labels) / np.arange(1, len(labels) + 1)
    good = np.flatnonzero(precisions >= precision)
    return float(labels[: good[-1] + 1].sum() / labels.sum()) if good.size else 0.0


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in figures.items() if name in FIGURES}


def _mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing, as JSON has no NaN."""
    found = list(values)
    return round(float(np.mean(found)), 4) if found else None


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="folder of the artifact whose scores are calibrated, or default")
    parser.add_argument("--fp32", help="folder of the fp32 artifact of the same checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--locomo", type=Path, help="LoCoMo folder; to measure only")
    parser.add_argument("--limit", type=int, default=10_000, help="at most so many queries of each (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="file for the figures as JSON")
    options = parser.parse_args(argv)
    reranker = Reranker.load(options.artifact)
    parts = {part: part_queries(options.data, part, options.limit) for part in ("calibrate", "test")}
    (fitting, sources), (test, test_sources) = (scored(reranker, queries) for queries in parts.values())
    calibration, _ = calibration_of(fitting, reranker.manifest.model_id, {})
    both = make_sample(
        np.concatenate([fitting.logits, test.logits]),
        np.concatenate([fitting.labels, test.labels]),
        queries=np.concatenate([fitting.queries, test.queries + fitting.queries.max() + 1]),
    )
    found: dict[str, Any] = {
        "same_mix": against_simpler(calibration.probability(test.logits), test),
        "promise": promise_in_splits(both, PROMISED, SPLITS),
        "between_sources": between_sources(fitting, sources, test, test_sources),
        "estimated_base_rate": {
            "test": [round(test.base_rate, 4), round(calibration.estimate_base_rate(test.logits), 4)]
        },
    }
    if options.fp32:
        other, _ = scored(Reranker.load(options.fp32), parts["test"])
        found["selected_int8_fp32"] = between_precisions(calibration, test, other)
    if options.locomo:
        locomo, _ = scored(reranker, locomo_queries(options.locomo, options.limit))
        found["locomo"] = against_simpler(calibration.probability(locomo.logits, locomo.base_rate), locomo)
        found["locomo_own_pairs"] = with_own_pairs(locomo)
        found["locomo_promises"] = promises_at(calibration, locomo)
        estimated = round(calibration.estimate_base_rate(locomo.logits), 4)
        found["estimated_base_rate"]["locomo"] = [round(locomo.base_rate, 4), estimated]
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
