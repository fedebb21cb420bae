"""What torch and transformers do on a device: its rates, reference logits, their speed, and a profile of kernels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kendalltau

Figures = dict[str, Any]

BATCH_SIZES = (16, 32, 64, 128, 256)
SECONDS = 0.4
"""About how long a batch size of transformers is tried."""


def device_figures(device: str) -> Figures:
    """The device in words, and its rate of a large matrix product in the type that artifacts compute in."""
    if device == "cpu":
        return {"device": "CPU", "matmul_tflops": matmul_tflops(device, 512, torch.float32)}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}",
        "multiprocessors": properties.multi_processor_count,
        "matmul_tflops": matmul_tflops(device, 8192, torch.float16),
    }


def matmul_tflops(device: str, size: int, dtype: torch.dtype) -> float:
    """The best of ten products of random [size, size] matrices, 2 operations a multiply-add."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = [_timed(lambda: a @ b, device) for _ in range(13)][3:]
    return float(2 * size**3 / min(seconds) / 1e12)


def compare(
    checkpoint: Path, prompts: Sequence[Sequence[int]], tokens: Sequence[int], found: npt.NDArray[Any], device: str
) -> Figures:
    """How far `found` is from the logits of transformers in float32, and how far those in float16 are."""
    expected = _reference_logits(checkpoint, prompts, tokens, torch.float32, device)
    half = _reference_logits(checkpoint, prompts, tokens, torch.float16, device)
    overflows = not np.isfinite(half).all()
    return {
        "documents": len(prompts),
        "finite": bool(np.isfinite(found).all()),
        "standard_deviation": float(expected.std()),
        "max_difference": float(np.abs(found - expected).max()),
        "mean_difference": float(np.abs(found - expected).mean()),
        "kendall_tau": float(kendalltau(found, expected).statistic),
        "transformers_fp16_max_difference": None if overflows else float(np.abs(half - expected).max()),
        "transformers_fp16_mean_difference": None if overflows else float(np.abs(half - expected).mean()),
    }


def transformers_speed(checkpoint: Path, documents: int, tokens: int, device: str) -> Figures:
    """Documents a second on whole prompts of equal length, at the best batch size that fits into memory."""
    model = _model(checkpoint, torch.float16 if device == "cuda" else torch.float32, device)
    ids = torch.randint(1000, 100_000, (documents, tokens), device=device)
    speeds: dict[int, float] = {}
    for size in [size for size in BATCH_SIZES if size < 2 * documents] or [documents]:
        try:
            speeds[size] = documents / _best(partial(_score, model, ids, size), device)
        except torch.cuda.OutOfMemoryError:
            break
    best = max(speeds, key=lambda size: speeds[size])
    return {"documents_per_second": speeds[best], "batch_size": best, "by_batch_size": speeds}


def kernels(call: Callable[[], object]) -> Figures:
    """The time of every kernel on the GPU in a call, whoever launched it, and the time in which there was none."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        start = time.perf_counter()
        call()
        wall = time.perf_counter() - start
    microseconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in profiled.events():
        if str(event.device_type).endswith("CUDA"):
            microseconds[event.name[:160]] += event.time_range.elapsed_us()
            launches[event.name[:160]] += 1
    return {
        "wall_ms": 1e3 * wall,
        "busy_ms": sum(microseconds.values()) / 1e3,
        "kernels": [
            {"name": name, "ms": spent / 1e3, "launches": launches[name]}
            for name, spent in microseconds.most_common(30)
        ],
    }


_models: dict[tuple[Path, torch.dtype], Any] = {}


def _model(checkpoint: Path, dtype: torch.dtype, device: str) -> Any:
    """The model of `checkpoint`, loaded once."""
    from transformers import AutoModelForCausalLM

    if (checkpoint, dtype) not in _models:
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype, attn_implementation="sdpa")
        _models.clear()
        _models[checkpoint, dtype] = model.to(device).eval()
    return _models[checkpoint, dtype]


def _reference_logits(
    checkpoint: Path, prompts: Sequence[Sequence[int]], tokens: Sequence[int], dtype: torch.dtype, device: str
) -> npt.NDArray[np.float32]:
    model = _model(checkpoint, dtype, device)
    true, false = tokens
    with torch.inference_mode():
        last = [model(torch.tensor([ids], device=device), logits_to_keep=1).logits[0, -1].float() for ids in prompts]
    return np.array([float(logits[true] - logits[false]) for logits in last], np.float32)


def _score(model: Any, ids: torch.Tensor, size: int) -> None:
    with torch.inference_mode():
        for start in range(0, len(ids), size):
            model(ids[start : start + size], logits_to_keep=1, use_cache=False)


def _best(call: Callable[[], None], device: str) -> float:
    """The least seconds of several calls."""
    seconds = [_timed(call, device)]
    while sum(seconds) < SECONDS and len(seconds) < 10:
        seconds.append(_timed(call, device))
    return min(seconds)


def _timed(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
