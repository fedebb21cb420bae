"""Time 50 memories of 40 tokens in one call: the artifact beside transformers in float32, turn by turn."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from conversations import conversations_aside
from memrerank import Reranker

QUESTION = "Who is looking after the turtles while the second officer is at sea?"
MEMORIES, TOKENS = 50, 40
COLD = f"from memrerank import Reranker; Reranker.load().score({QUESTION!r}, ['Leave the turtles to me.'])"


def memories(checkpoint: Path) -> list[str]:
    """Texts of TOKENS tokens, cut from the conversations that only measure."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    lines = " ".join(line.text for conversation in conversations_aside() for line in conversation.lines)
    ids = tokenizer(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return [tokenizer.decode(ids[i * TOKENS : (i + 1) * TOKENS]) for i in range(MEMORIES)]


def with_torch(checkpoint: Path, texts: list[str]) -> Callable[[], object]:
    """A call that scores the texts with transformers, padded to the longest."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BertForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()

    @torch.inference_mode()
    def call() -> object:
        encoded = tokenizer([QUESTION] * len(texts), texts, padding=True, return_tensors="pt")
        return model(**encoded).logits

    return call


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--artifact", default="default", help="its artifact (default: the embedded one)")
    parser.add_argument("--rounds", type=int, default=25, help="turns of each (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each (default %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="file for the figures as JSON")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    texts = memories(options.checkpoint)
    reranker = Reranker.load(options.artifact, threads=options.threads)
    calls = [lambda: reranker.score(QUESTION, texts), with_torch(options.checkpoint, texts)]
    rounds = [[seconds(call) for call in calls] for _ in range(options.rounds + 2)][2:]
    cold = [seconds(lambda: subprocess.run([sys.executable, "-c", COLD], check=True)) for _ in range(7)]
    own, other = (MEMORIES / statistics.median(each) for each in zip(*rounds, strict=True))
    found = {
        "documents_per_second": round(own, 1),
        "documents_per_second_torch_fp32": round(other, 1),
        "ratio": round(statistics.median(theirs / ours for ours, theirs in rounds), 2),
        "cold_seconds": round(statistics.median(cold), 3),
        "rounds": options.rounds,
        "threads": options.threads,
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
