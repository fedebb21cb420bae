"""One measurement in a process of its own; the figures are printed as one line of JSON."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from memrerank import Reranker
from memrerank_bench.throughput import DOCUMENT, DOCUMENTS, PREFIX
from memrerank_bench.watch import watch
from memrerank_bench.words import WORDS

CALLS = 3
FEW = 8


def measure_memrerank(_: Path, artifact: Path) -> dict[str, Any]:
    """Seconds to load, resident memory while scoring, and the speed of the best of a few calls."""
    reranker, load_seconds = _timed(lambda: Reranker.load(artifact, verify=False))
    query, documents = texts(reranker)
    with watch() as seen:
        reranker.score(query, documents[:4])
        seconds = min(_timed(partial(reranker.score, query, documents))[1] for _ in range(CALLS))
    reranker = None
    hashing = _timed(lambda: Reranker.load(artifact))[1] - _timed(lambda: Reranker.load(artifact, verify=False))[1]
    return {
        "load_seconds": load_seconds,
        "load_seconds_with_hashes": load_seconds + hashing,
        "resident_bytes": seen.resident_bytes,
        "artifact_bytes": sum(file.stat().st_size for file in artifact.iterdir()),
        "documents_per_second": len(documents) / seconds,
        "tokens_per_second": (PREFIX + len(documents) * DOCUMENT) / seconds,
    }


def measure_precision(_: Path, artifact: Path) -> dict[str, Any]:
    """Resident memory while scoring, and the speed on a few documents: large shapes are slow."""
    reranker = Reranker.load(artifact, verify=False)
    query, documents = texts(reranker)
    reranker.score(query, documents[:2])
    with watch() as seen:
        seconds = min(_timed(partial(reranker.score, query, documents[:FEW]))[1] for _ in range(2))
    return {
        "resident_bytes": seen.resident_bytes,
        "artifact_bytes": sum(file.stat().st_size for file in artifact.iterdir()),
        "documents_per_second": FEW / seconds,
    }


def measure_transformers(dtype: str) -> Callable[[Path, Path], dict[str, Any]]:
    """Speed of transformers on whole prompts in batches, at its best batch size."""

    def measure(checkpoint: Path, artifact: Path) -> dict[str, Any]:
        import torch
        from transformers import AutoModelForCausalLM

        reranker = Reranker.load(artifact, verify=False)
        query, documents = texts(reranker)
        prompts = [reranker.encode(query, document) for document in documents[:16]]
        del reranker
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))

        def run(size: int) -> None:
            with torch.inference_mode():
                for start in range(0, len(prompts), size):
                    model(torch.tensor(prompts[start : start + size]), logits_to_keep=1)

        run(len(prompts))
        speeds = {size: len(prompts) / _timed(partial(run, size))[1] for size in (1, 2, 4, 8, 16)}
        best = max(speeds, key=lambda size: speeds[size])
        return {"documents_per_second": speeds[best], "batch_size": best, "by_batch_size": speeds}

    return measure


def measure_ceiling(_: Path, __: Path) -> dict[str, Any]:
    """The rate of ONNX Runtime's int8 matmul at a large shape, on all CPUs."""
    from memrerank_bench.matmul import matmul_rate

    return {"gop_per_second": matmul_rate("int8")}


def texts(reranker: Reranker) -> tuple[str, list[str]]:
    """A query and documents that take exactly PREFIX and DOCUMENT tokens, of words of one token each."""
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(words))

    frame = len(reranker.encode("one", "one")) - 2
    suffix = 9
    query = text(PREFIX + suffix - frame)
    documents = [text(DOCUMENT - suffix) for _ in range(DOCUMENTS)]
    lengths = {len(reranker.encode(query, document)) for document in documents}
    if lengths != {PREFIX + DOCUMENT}:
        raise AssertionError(f"prompts of {PREFIX + DOCUMENT} tokens were meant, found {lengths}")
    return query, documents


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


MEASUREMENTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "ceiling": measure_ceiling,
    "memrerank": measure_memrerank,
    "precision": measure_precision,
    "transformers-float32": measure_transformers("float32"),
    "transformers-bfloat16": measure_transformers("bfloat16"),
}

if __name__ == "__main__":
    name, checkpoint, artifact = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[name](Path(checkpoint), Path(artifact))))
