"""What ranking quality is measured on: questions with candidate memories, and the readers of data that holds them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memrerank import InputError, Memory


@dataclass(frozen=True)
class Question:
    """A query with its candidates.

    `relevance` is the grade, from 1, of every relevant document by its id; those that are not among the candidates
    count as lost. `first_stage` holds the candidates' scores in the orders to compare with, by name; an order that some
    questions lack is left out.
    """

    id: str
    query: str
    candidates: Mapping[str, Memory]
    relevance: Mapping[str, int]
    first_stage: Mapping[str, Sequence[float]]
    category: str | None = None
    context: tuple[str, ...] = ()
    time: str | None = None


@dataclass(frozen=True)
class Questions:
    """Questions of a reader; `left_out` counts those that no order could be judged by."""

    reader: str
    questions: tuple[Question, ...]
    left_out: int = 0


def read_questions(
    path: Path,
    *,
    split: str | None = None,
    run: Path | None = None,
    categories: Sequence[str] | None = None,
    sample: int | None = None,
) -> Questions:
    """The questions in a LoCoMo folder, a BEIR folder or a PAIRS.jsonl, told apart by their files.

    `split` and `run` are for BEIR folders: the name of a file in qrels, and a run in TREC's form with the candidates.
    `categories` keeps questions of these, `sample` so many that are drawn at random, always the same ones.
    """
    found = _read(path, split, run, categories)
    if twice := [name for name, times in Counter(question.id for question in found.questions).items() if times > 1]:
        raise InputError(f"{path} has more than one question with the id {twice[0]!r}; an id for each was expected.")
    if categories is not None:
        found = replace(found, questions=tuple(q for q in found.questions if q.category in categories))
    if not found.questions:
        raise InputError(f"{path} has no question to measure on: none has the categories asked for and a relevant one.")
    if sample is not None and sample < len(found.questions):
        found = replace(found, questions=tuple(random.Random(0).sample(found.questions, sample)))
    return found


def _read(path: Path, split: str | None, run: Path | None, categories: Sequence[str] | None) -> Questions:
    from memrerank_bench.beir import read_beir
    from memrerank_bench.judged_pairs import read_judged_pairs
    from memrerank_bench.locomo import read_locomo

    if (path / "corpus.jsonl").is_file():
        return read_beir(path, split, run)
    if run is not None or split is not None:
        raise InputError(f"--run and --split are for BEIR folders, and {path} has no corpus.jsonl.")
    if path.is_file():
        return read_judged_pairs(path)
    if (path / "queries.jsonl").is_file():
        return read_locomo(path, answerable_only=categories is None)
    raise InputError(
        f"{path} holds no data: a LoCoMo folder (queries.jsonl, memories_*.jsonl), a BEIR folder (queries.jsonl, "
        "corpus.jsonl, qrels/*.tsv) or a PAIRS.jsonl was expected."
    )
