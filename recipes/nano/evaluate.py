"""Measure a checkpoint, or an artifact of one, on a part of the data folder, written and made-up conversations."""

from __future__ import annotations

import argparse
import json
import random
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
from memories import memory_group
from memrerank import Memory, Reranker
from memrerank.manifest import MANIFEST, read_manifest
from memrerank_bench.metrics import evaluate, summary
from memrerank_bench.questions import Question
from model import load_model, load_tokenizer, step_logits
from scenes import aside_groups
from split import PARTS, split

MEMORY_SEED = 1_000_003
"""Far from the seeds of training."""

LIMIT = 256
CUTOFFS = (10,)

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
    questions = [_question(str(number), group) for number, group in enumerate(groups)]
    figures = evaluate(questions, [scores[::-1] for scores in logits], CUTOFFS)
    sources = np.array([group.source for group in groups])
    by_source = {str(name): float(figures["MAP"][sources == name].mean()) for name in np.unique(sources)}
    return {"questions": len(groups), **summary(figures, np.ones(len(groups), bool)), "map_by_source": by_source}


def _question(name: str, group: Group) -> Question:
    """The group from its last document on: ties keep the order, and so count against those that answer."""
    candidates = {str(place): Memory(text) for place, text in reversed(list(enumerate(group.documents)))}
    relevance = {str(place): 1 for place, label in enumerate(group.labels) if label > 0.5}
    return Question(name, group.query, candidates, relevance, first_stage={})


def part_groups(data: Path, part: str, limit: int) -> list[Group]:
    """The rows of a part, each dressed as memories in the same way whenever it is read."""
    passages = read_passages(data)
    rows = split(read_rows(data, "valid"))[part]
    random.Random(0).shuffle(rows)
    return [dress(row, passages, random.Random(row.query), documents=9) for row in rows[:limit]]


def memory_groups(count: int) -> list[Group]:
    """Questions on made-up dialogues."""
    return [memory_group(random.Random(MEMORY_SEED + i), documents=16) for i in range(count)]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", type=Path, help="folder of a checkpoint, or of an artifact")
    add("--data", type=Path, required=True, help="data folder")
    add("--part", choices=PARTS, default="select", help="part of the valid rows (default %(default)s)")
    add(
        "--limit",
        type=int,
        default=10_000,
        help="at most so many rows, written and made-up questions (default: all, 500 made-up)",
    )
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
    found[options.part] = measure_groups(scorer, part_groups(options.data, options.part, options.limit))
    aside = aside_groups(options.part)
    for kind in sorted({group.source for group in aside}):
        found[kind] = measure_groups(scorer, [each for each in aside if each.source == kind][: options.limit])
    found["memory"] = measure_groups(scorer, memory_groups(min(options.limit, 500)))
    text = json.dumps(found, indent=1)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
