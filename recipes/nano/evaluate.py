"""Measure a checkpoint, or an artifact of one, on a part of the data folder, on made-up dialogues, and on LoCoMo.

Parts of the data folder and dialogues from templates serve to select; a LoCoMo folder only to measure.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import BertForSequenceClassification

from data import dress, read_passages, read_rows
from groups import Group
from locomo import ANSWERABLE, Query, read_queries
from memories import memory_group
from memrerank import Reranker
from memrerank.manifest import MANIFEST, read_manifest
from metrics import Figures, compare, figures, interval, ranked, summary
from model import load_model, load_tokenizer, step_logits
from scenes import aside_groups
from split import PARTS, split

MEMORY_SEED = 1_000_003
"""Far from the seeds of training."""

LIMIT = 256


Queries = Sequence[tuple[str, Sequence[str]]]
Scorer = Callable[[Queries], list[list[float]]]
"""From queries with their documents to logits."""


class CheckpointScorer:
    """A checkpoint that scores documents, with torch."""

    def __init__(self, folder: Path, bf16: bool = False) -> None:
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.model: BertForSequenceClassification = load_model(folder).eval()
        self.bf16 = bf16

    @torch.inference_mode()
    def __call__(self, queries: Queries) -> list[list[float]]:
        """Logits for the documents of each query."""
        scores: list[list[float]] = []
        for start in tqdm(range(0, len(queries), 16), unit="16 queries", disable=None):
            some = queries[start : start + 16]
            pairs = [(query, document) for query, documents in some for document in documents]
            logits = step_logits(self.model, self.tokenizer, pairs, tokens=4096, limit=LIMIT, bf16=self.bf16)
            split_up = logits.split([len(documents) for _, documents in some])
            scores += [part.tolist() for part in split_up]
        return scores


class ArtifactScorer:
    """An artifact that scores documents, with the runtime."""

    def __init__(self, folder: Path) -> None:
        self.reranker = Reranker.load(folder)

    def __call__(self, queries: Queries) -> list[list[float]]:
        """Logits for the documents of each query."""
        return [
            self.reranker.score(query, documents, raw=True).tolist() for query, documents in tqdm(queries, disable=None)
        ]


def measure_groups(scorer: Scorer, groups: Sequence[Group]) -> dict[str, Any]:
    """Figures over groups, and MAP by source."""
    logits = scorer([(group.query, group.documents) for group in groups])
    values: list[tuple[float, float, float]] = []
    by_source: dict[str, list[float]] = defaultdict(list)
    for group, scores in zip(groups, logits, strict=True):
        relevant = [label > 0.5 for label in group.labels]
        order = np.argsort(relevant, kind="stable")  # a tie counts against the positives
        sorted_relevant = [relevant[i] for i in order]
        values.append(figures(ranked([scores[i] for i in order], sorted_relevant), sum(relevant)))
        by_source[group.source].append(values[-1][0])
    found: dict[str, Any] = {"queries": len(groups), **summary(np.array(values))}
    found["map_by_source"] = {name: round(float(np.mean(each)), 4) for name, each in sorted(by_source.items())}
    return found


def part_groups(data: Path, part: str, limit: int) -> list[Group]:
    """The rows of a part, each dressed as memories in the same way whenever it is read."""
    passages = read_passages(data)
    rows = split(read_rows(data, "valid"))[part]
    random.Random(0).shuffle(rows)
    return [dress(row, passages, random.Random(row.query), documents=9) for row in rows[:limit]]


def memory_groups(count: int) -> list[Group]:
    """Questions on made-up dialogues."""
    return [memory_group(random.Random(MEMORY_SEED + i), documents=16) for i in range(count)]


def measure_locomo(scorer: Scorer, queries: Sequence[Query]) -> dict[str, Any]:
    """Figures by category, and the paired gain over the orders of the first stage."""
    logits = scorer([(query.text, query.documents) for query in queries])
    orders = {
        "model": [np.array(scores) for scores in logits],
        "bm25": [np.array(query.bm25) for query in queries],
        "rrf": [-np.arange(len(query.documents)) for query in queries],
    }
    orders["fused"] = [_fused(*pair) for pair in zip(orders["model"], orders["rrf"], strict=True)]
    values = {name: _values(queries, scores) for name, scores in orders.items()}
    categories = np.array([query.category for query in queries])
    chosen = {"1-4": categories <= ANSWERABLE} | {str(c): categories == c for c in sorted(set(categories.tolist()))}
    return {name: _category(values, mask) for name, mask in chosen.items() if mask.any()}


def _values(queries: Sequence[Query], scores: Sequence[Any]) -> Figures:
    return np.array(
        [figures(ranked(each, query.relevant), query.gold) for query, each in zip(queries, scores, strict=True)]
    )


def _category(values: dict[str, Figures], mask: np.ndarray) -> dict[str, Any]:
    own = {name: figure[mask] for name, figure in values.items()}
    first_stage = {name: own[name] for name in ("bm25", "rrf")}
    found: dict[str, Any] = {"queries": int(mask.sum())}
    found |= {name: summary(figure) for name, figure in own.items()}
    found["gain"] = compare(own["model"], first_stage)
    found["gain_of_fusion"] = interval(own["fused"][:, 0] - own["model"][:, 0])
    return found


def _fused(model: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Reciprocal ranks (k = 60) of the model, twice, and of the first stage, once."""
    places = [np.argsort(np.argsort(-scores, kind="stable"), kind="stable") + 1 for scores in (model, first)]
    return np.asarray(2 / (60 + places[0]) + 1 / (60 + places[1]))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, help="folder of a checkpoint, or of an artifact")
    add("--data", type=Path, help="data folder, to measure a part of it and dialogues from templates")
    add("--part", choices=PARTS, default="select", help="part of the valid rows (default %(default)s)")
    add(
        "--limit",
        type=int,
        default=10_000,
        help="at most so many rows, written and made-up questions (default: all, 500 made-up)",
    )
    add("--locomo", type=Path, help="LoCoMo folder with queries.jsonl and memories_*.jsonl; to measure only")
    add("--sample", type=int, help="so many LoCoMo queries, drawn at random (default: all)")
    add("--highest", type=int, default=ANSWERABLE, help="highest LoCoMo category (default %(default)s; 5: adversarial)")
    add("--bf16", action="store_true", help="compute a checkpoint in bfloat16, which is faster and close")
    add("--threads", type=int, default=2, help="threads of torch (default %(default)s)")
    add("--output", type=Path, help="file for the figures as JSON (default: standard output)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = arguments().parse_args(argv)
    torch.set_num_threads(options.threads)
    scorer: Scorer
    if (options.model / MANIFEST).exists():
        scorer, form = ArtifactScorer(options.model), read_manifest(options.model).precision
    else:
        scorer, form = CheckpointScorer(options.model, options.bf16), "bf16" if options.bf16 else "fp32"
    found: dict[str, Any] = {"form": form}
    if options.data:
        found[options.part] = measure_groups(scorer, part_groups(options.data, options.part, options.limit))
        aside = aside_groups(options.part)
        for source in ("scenes", "long"):
            found[source] = measure_groups(scorer, [each for each in aside if each.source == source][: options.limit])
        found["memory"] = measure_groups(scorer, memory_groups(min(options.limit, 500)))
    if options.locomo:
        found["locomo"] = measure_locomo(scorer, read_queries(options.locomo, options.sample, options.highest))
    text = json.dumps(found, indent=1)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
