"""Questions of a BEIR folder: queries.jsonl, corpus.jsonl and qrels/<split>.tsv.

Beyond BEIR's keys, a document may have `time` and `speaker`, and a query `time`, `context` and `category`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memrerank import InputError, Memory
from memrerank.memory import as_memory
from memrerank_bench.lines import parse_lines, parse_rows, text_of, texts_of
from memrerank_bench.questions import Question, Questions

LARGEST = 1000
"""Documents of a corpus that are all candidates where no run names any."""

Grades = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def read_beir(folder: Path, split: str | None, run: Path | None) -> Questions:
    """The queries that have a relevant document; candidates are those of `run`, or else the whole corpus, if small."""
    corpus = dict(parse_rows(folder / "corpus.jsonl", _document, "document"))
    grades = _grades(_qrels_file(folder, split))
    scores = None if run is None else _run(run)
    if scores is None and len(corpus) > LARGEST:
        raise InputError(
            f"{folder} has {len(corpus)} documents, too many to score all for every query; give --run FILE, "
            "a first stage's candidates as lines 'query Q0 document rank score name'."
        )
    questions = [
        _question(row, corpus, grades, scores)
        for row in parse_rows(folder / "queries.jsonl", _query, "query")
        if row["_id"] in grades and (scores is None or row["_id"] in scores)
    ]
    return Questions("beir", tuple(questions), left_out=len(grades) - len(questions))


def _question(row: Mapping[str, Any], corpus: Mapping[str, Memory], grades: Grades, scores: Run | None) -> Question:
    name = row["_id"]
    found = None if scores is None else dict(sorted(scores[name].items(), key=lambda item: -item[1]))
    if unknown := [document for document in found or () if document not in corpus]:
        raise InputError(f"The run's document {unknown[0]!r} of query {name!r} is not in corpus.jsonl.")
    return Question(
        id=name,
        query=row["text"],
        candidates=corpus if found is None else {document: corpus[document] for document in found},
        relevance=grades[name],
        first_stage={} if found is None else {"run": list(found.values())},
        category=row["category"],
        context=tuple(row["context"]),
        time=row["time"],
    )


def _query(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = as_memory(Memory(text_of(row, "text"), row.get("time")), "the query")
    return {
        "_id": text_of(row, "_id"),
        "text": asked.text,
        "time": asked.time,
        "context": texts_of(row, "context"),
        "category": None if row.get("category") is None else text_of(row, "category"),
    }


def _document(row: Mapping[str, Any]) -> tuple[str, Memory]:
    text = f"{row.get('title') or ''} {text_of(row, 'text')}".strip()
    return text_of(row, "_id"), as_memory(Memory(text, row.get("time"), row.get("speaker")), "the document")


def _qrels_file(folder: Path, split: str | None) -> Path:
    found = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    chosen = split or ("test" if "test" in found else next(iter(found), "test"))
    if chosen not in found or (split is None and "test" not in found and len(found) > 1):
        raise InputError(
            f"{folder / 'qrels'} has the splits {', '.join(found) or 'none'}; give one of them as --split."
        )
    return found[chosen]


def _grades(path: Path) -> Grades:
    """The documents of each query with a grade above 0; a header line is skipped."""
    grades: Grades = {}
    for query, document, grade in _tab_separated(path):
        if grade > 0:
            grades.setdefault(query, {})[document] = grade
    return grades


def _tab_separated(path: Path) -> Iterator[tuple[str, str, int]]:
    def parse(line: str) -> tuple[str, str, int]:
        query, document, grade = line.rstrip("\r").split("\t")
        return query, document, 0 if grade == "score" else int(grade)

    return parse_lines(path, parse, "judgement (query, document and grade, between tabs)")


def _run(path: Path) -> Run:
    def parse(line: str) -> tuple[str, str, float]:
        query, _, document, _, score, _ = line.split()
        if math.isnan(float(score)):
            raise ValueError("its score is not a number")
        return query, document, float(score)

    scores: Run = {}
    for query, document, score in parse_lines(path, parse, "line of a run (query Q0 document rank score name)"):
        scores.setdefault(query, {})[document] = score
    return scores
