"""Rerank a small conversation with the embedded model and print what it finds."""

import json
import shutil
import sys
import textwrap
import time
from io import TextIOWrapper
from pathlib import Path

from memrerank import Hit, Memory, Reranker

CONVERSATION = Path(__file__).with_name("demo.jsonl")

QUESTIONS: tuple[tuple[str, list[str]], ...] = (
    ("When did Nora start at the observatory?", []),
    ("Why did Tomas miss the concert?", []),
    ("Why was he not there?", ["Nora: Tomas had a ticket for the concert on Friday."]),
    ("What should Ida not eat?", []),
    ("What is she learning, and what for?", ["Tomas: Have you heard from Nora?"]),
    ("How far did Tomas swim?", []),
)

BASE_RATE = 0.05
"""One or two of thirty memories answer a question."""


def main() -> int:
    """Ask the questions, with the dialogue turns that some of them need."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    start = time.perf_counter()
    reranker = Reranker.load()
    loaded = time.perf_counter()
    memories = [Memory(**json.loads(line)) for line in CONVERSATION.read_text(encoding="utf-8").splitlines()]
    for question, context in QUESTIONS:
        ranking = reranker.rerank(question, memories, context=context, top_k=3, base_rate=BASE_RATE)
        print("\n" + "\n".join([*context, question]))
        for hit in ranking:
            print(line_of(hit))
    milliseconds = 1000 * (time.perf_counter() - loaded) / len(QUESTIONS)
    print(f"\nA percentage is the probability that the memory answers, where {BASE_RATE:.0%} of all memories do.")
    print(f"Loading took {loaded - start:.2f} s, reranking {len(memories)} memories {milliseconds:.0f} ms a question.")
    return 0


def line_of(hit: Hit[Memory]) -> str:
    """A bar, the probability, and the memory, wrapped to the width of the terminal."""
    head = f"  {'█' * round(10 * hit.score):10} {hit.score:4.0%}  {str(hit.document.time)[:10]}  "
    width = max(shutil.get_terminal_size().columns, 60)
    text = f"{hit.document.speaker}: {hit.document.text}"
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head))


if __name__ == "__main__":
    sys.exit(main())
