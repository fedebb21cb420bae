"""The parts of `memrerank_bench.cuda`: each yields named figures, which are printed as lines of JSON."""

from __future__ import annotations

import json
import lzma
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file, save_file

import memrerank
from memrerank import Reranker
from memrerank.driver import Driver
from memrerank_bench import measure_torch
from memrerank_bench.cuda import FULL, HEADLINE, Figures
from memrerank_bench.random_checkpoint import CONFIG_06B, CONFIG_4B, write_random_checkpoint
from memrerank_bench.throughput import linear_macs
from memrerank_bench.words import WORDS

TINY = CONFIG_06B | {
    "num_hidden_layers": 3,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
SHAPES: dict[str, dict[str, Any]] = {"tiny": TINY, "tiny-large": TINY, "0.6B": CONFIG_06B, "4B": CONFIG_4B}
SUFFIX = 9
"""Tokens of the prompt's end, which count as the document's."""

COMPARED = 64
"""Documents whose logits are compared with transformers'."""

BUDGETS = (4096, 8192, 16384, 32768)
"""Tokens of a run that are tried."""

Named = Iterator[tuple[str, Figures]]


def machine(options: dict[str, Any], done: Sequence[str]) -> Named:
    """What it is measured on, and how fast that multiplies."""
    if "machine" not in done:
        versions = {"memrerank": memrerank.__version__, "onnxruntime": ort.__version__, "numpy": np.__version__}
        yield "machine", versions | measure_torch.device_figures(options["device"])


def checkpoint(options: dict[str, Any], done: Sequence[str], shape: str) -> Named:
    """Write random weights, where they are not there."""
    folder = Path(options["work"]) / shape
    if not folder.exists():
        tokenizer = folder.with_name("tokenizer.json")
        packed = Path(options["tokenizer"])
        folder.parent.mkdir(parents=True, exist_ok=True)
        content = packed.read_bytes()
        tokenizer.write_bytes(lzma.decompress(content) if packed.suffix == ".xz" else content)
        part = folder.with_name(f".{shape}.{time.time_ns()}")
        write_random_checkpoint(part, SHAPES[shape], tokenizer, separate_head=shape == "4B")
        if shape == "tiny-large":
            _inject_large_activations(part / "model.safetensors")
        part.rename(folder)
    yield "bytes", {"value": (folder / "model.safetensors").stat().st_size}


def export(options: dict[str, Any], done: Sequence[str], shape: str, precision: str) -> Named:
    """Make the artifact; one that is there is completed."""
    paths = [str(_path(options, shape)), str(_path(options, shape, precision))]
    command = [sys.executable, "-m", "memrerank_export.cli", *paths, "--precision", precision, "--device", "cuda"]
    start = time.monotonic()
    subprocess.run([*command, "--no-fidelity"], check=True, stdout=sys.stderr)
    yield "export", {"seconds": time.monotonic() - start}


def correctness(options: dict[str, Any], done: Sequence[str], shape: str, precision: str) -> Named:
    """Logits against transformers in float32 on the same device, beside those of transformers in float16."""
    if "logits" in done:
        return
    reranker, seconds = _load(options, shape, precision)
    probe = reranker.manifest.probe
    assert probe is not None
    probed = float(reranker.score(probe.query, [probe.document], raw=True)[0])
    draw = random.Random(1)
    query, documents = _text(draw, 12), [_text(draw, draw.randint(3, 80)) for _ in range(COMPARED)]
    found = reranker.score(query, documents, raw=True)
    prompts = [reranker.encode(query, document) for document in documents]
    alone = np.array([reranker.score(query, [document], raw=True)[0] for document in documents[:8]])
    tokens = reranker.manifest.source["score_tokens"]
    del reranker
    figures = measure_torch.compare(_path(options, shape), prompts, tokens, found, options["device"])
    figures |= {
        "load_seconds": seconds,
        "in_a_batch_max_difference": float(np.abs(found[:8] - alone).max()),
        "probe_difference": abs(probed - probe.logit),
        "probe_tolerance": probe.tolerance,
    }
    yield "logits", figures


def speed(options: dict[str, Any], done: Sequence[str], shape: str, precision: str) -> Named:
    """Latency of calls, with tokenization; device memory; and which kernels take the time."""
    free = _free_memory(options)
    reranker, _ = _load(options, shape, precision)
    loaded, least = _free_memory(options), [_free_memory(options)]
    for name in cells(options):
        if name not in done:
            yield name, _latency(reranker, name, options["repeat"], shape)
            least.append(_free_memory(options))
    if "memory" not in done and options["device"] == "cuda":
        yield "memory", {"loaded_bytes": free - loaded, "largest_bytes": free - min(least)}
    for name in (HEADLINE, FULL) if options["device"] == "cuda" else ():
        if f"kernels {name}" not in done:
            yield f"kernels {name}", measure_torch.kernels(partial(reranker.score, *texts(reranker, name)))


def transformers(options: dict[str, Any], done: Sequence[str], shape: str) -> Named:
    """The same calls through transformers in float16 with sdpa, at the best batch size, without tokenization."""
    left = [name for name in cells(options) if name not in done]
    folder = _path(options, shape)
    for name in left:
        documents, before, length = _sizes(name)
        yield name, measure_torch.transformers_speed(folder, documents, before + length, options["device"])


def variants(options: dict[str, Any], done: Sequence[str], shape: str, precision: str) -> Named:
    """Other choices: how many tokens a run takes, and MatMulNBits without its fused kernel."""
    from memrerank import cuda, padded_decoder

    if options["device"] != "cuda":
        return
    for tokens in BUDGETS:
        if f"{tokens} tokens a run" not in done:
            padded_decoder.MOST_TOKENS = tokens
            yield f"{tokens} tokens a run", _fresh_latency(options, shape, precision, FULL)
    padded_decoder.MOST_TOKENS = 16384
    if precision != "fp16":
        cuda.CONFIG["ep.cuda.fpa_intb_gemm"] = "0"
        for name in (HEADLINE, FULL):
            if f"unfused {name}" not in done:
                yield f"unfused {name}", _fresh_latency(options, shape, precision, name)


def cells(options: dict[str, Any]) -> list[str]:
    """Every call to measure, those of the goals first."""
    every = [
        f"{documents}x{before}x{length}"
        for before in options["prefixes"]
        for length in options["lengths"]
        for documents in options["documents"]
    ]
    return sorted(every, key=lambda name: name not in (HEADLINE, FULL))


def texts(reranker: Reranker, name: str) -> tuple[str, list[str]]:
    """A query and documents that take exactly the tokens of a cell, of words of one token each."""
    documents, before, length = _sizes(name)
    draw = random.Random(0)
    frame = len(reranker.encode("one", "one")) - 2
    query = _text(draw, before + SUFFIX - frame)
    found = [_text(draw, length - SUFFIX) for _ in range(documents)]
    sizes = {len(reranker.encode(query, document)) for document in found[:8]}
    if sizes != {before + length}:
        raise RuntimeError(f"prompts of {before + length} tokens were meant, found {sizes}")
    return query, found


def _latency(reranker: Reranker, name: str, repeat: int, shape: str) -> Figures:
    """Percentiles over calls after two for warming up, and what they amount to."""
    documents, before, length = _sizes(name)
    call = partial(reranker.score, *texts(reranker, name), raw=True)
    seconds = [_seconds(call) for _ in range(repeat + 2)][2:]
    median = float(np.median(seconds))
    tokens = before + documents * length
    return {
        "p50_ms": 1e3 * median,
        "p95_ms": 1e3 * float(np.percentile(seconds, 95)),
        "documents_per_second": documents / median,
        "tokens_per_second": tokens / median,
        "tflops": 2 * linear_macs(SHAPES[shape]) * tokens / median / 1e12,
    }


def _fresh_latency(options: dict[str, Any], shape: str, precision: str, name: str) -> Figures:
    reranker, seconds = _load(options, shape, precision)
    return {"load_seconds": seconds, **_latency(reranker, name, options["repeat"], shape)}


def _load(options: dict[str, Any], shape: str, precision: str) -> tuple[Reranker, float]:
    start = time.monotonic()
    reranker = Reranker.load(_path(options, shape, precision), device=options["device"], verify=False, probe=False)
    return reranker, time.monotonic() - start


def _path(options: dict[str, Any], shape: str, precision: str | None = None) -> Path:
    return Path(options["work"]) / (shape if precision is None else f"{shape}-{precision}")


def _inject_large_activations(path: Path) -> None:
    """Let one channel of the residual stream of a checkpoint exceed what 16 bits hold."""
    weights = load_file(path)
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e3
    weights["model.layers.0.mlp.down_proj.weight"][5] *= 3e3
    save_file(weights, path, metadata={"format": "pt"})


def _free_memory(options: dict[str, Any]) -> int:
    return Driver().free_memory() if options["device"] == "cuda" else 0


def _sizes(name: str) -> tuple[int, int, int]:
    documents, before, length = map(int, name.split("x"))
    return documents, before, length


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


PARTS: dict[str, Callable[..., Named]] = {
    part.__name__: part for part in (machine, checkpoint, export, correctness, speed, transformers, variants)
}


def main() -> None:
    """Do the part that is described by the argument, as JSON: its names, the options and what is done."""
    [name, *names], options, done = json.loads(sys.argv[1])
    for measured, figures in PARTS[name](options, done, *names):
        print(json.dumps({"measured": measured, "figures": figures}), flush=True)


if __name__ == "__main__":
    main()
