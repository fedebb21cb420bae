"""How far an artifact's logits are from those of a float reference on a set of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from memrerank import Reranker
from memrerank_calibration.pairs import Pair, read_pairs
from memrerank_export.checkpoint import Checkpoint
from memrerank_export.config import Qwen3Config
from memrerank_export.weights import Weights

Logits = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Told the name of a stage and how many of how many steps are done."""


class NoReferenceError(Exception):
    """Why the checkpoint cannot be run as it is on this machine."""


@dataclass(frozen=True)
class Fidelity:
    """Differences of logits over `pairs` pairs; `kendall_tau` is the mean over queries with several documents."""

    reference: str
    pairs: int
    max_difference: float
    mean_difference: float
    kendall_tau: float | None


def built_in_pairs() -> list[Pair]:
    """A few memories and questions that come with the exporter."""
    return read_pairs(Path(str(files("memrerank_export").joinpath("fidelity_pairs.jsonl"))))


def measure_fidelity(
    reranker: Reranker,
    pairs: Sequence[Pair],
    checkpoint: Checkpoint,
    config: Qwen3Config,
    weights: Weights,
    progress: Progress,
) -> dict[str, Any]:
    """The fidelity for the manifest: figures against the reference, or null figures and the reason."""
    progress("loading the reference", 0, 1)
    try:
        reference = transformers_reference(checkpoint, config, weights)
    except NoReferenceError as error:
        return {"reference": None, "reason": str(error)}
    progress("loading the reference", 1, 1)
    expected, found = [], []
    for done, pair in enumerate(pairs, start=1):
        ids = reranker.encode(pair.query, pair.document, context=pair.context, time=pair.time)
        [logit] = reranker.score(pair.query, [pair.document], context=pair.context, time=pair.time, raw=True)
        expected.append(reference(ids))
        found.append(logit)
        progress("comparing with the reference", done, len(pairs))
    return asdict(compare(_reference_name(), [pair.query for pair in pairs], np.array(expected), np.array(found)))


def compare(reference: str, queries: Sequence[str], expected: Logits, found: Logits) -> Fidelity:
    """Compare logits pair by pair, and their order query by query."""
    difference = np.abs(expected - found)
    return Fidelity(
        reference, len(queries), float(difference.max()), float(difference.mean()), _mean_tau(queries, expected, found)
    )


def _mean_tau(queries: Sequence[str], expected: Logits, found: Logits) -> float | None:
    names = np.array(queries)
    taus = [float(kendalltau(expected[names == name], found[names == name]).statistic) for name in sorted(set(queries))]
    known = [tau for tau in taus if not np.isnan(tau)]
    return float(np.mean(known)) if known else None


def transformers_reference(
    checkpoint: Checkpoint, config: Qwen3Config, weights: Weights
) -> Callable[[Iterable[int]], float]:
    """The logit of a whole prompt by transformers' own Qwen3Model in float32, with the checkpoint's score vector."""
    try:
        from transformers import Qwen3Config as ModelConfig
        from transformers import Qwen3Model

        import torch  # isort: skip  (only where transformers is there)
    except ImportError as error:
        raise NoReferenceError(
            f"{error.name} is not installed; pip install 'memrerank[encoders]' for a reference"
        ) from error
    needed, free = 4 * sum(int(np.prod(weight.shape)) for weight in weights.values()), _free_memory()
    if free is not None and needed > free:
        raise NoReferenceError(
            f"the float32 reference needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
        )
    model_config = ModelConfig.from_pretrained(checkpoint.folder)
    model_config.rope_theta = config.rope_theta  # transformers 4 does not read it from rope_parameters
    model = Qwen3Model.from_pretrained(checkpoint.folder, config=model_config, dtype=torch.float32)
    vector = torch.from_numpy(weights["score.weight"].read())

    def logit(ids: Iterable[int]) -> float:
        with torch.inference_mode():
            states = model(torch.tensor([list(ids)])).last_hidden_state
            return float(states[0, -1] @ vector)

    return logit


def _reference_name() -> str:
    from importlib.metadata import version

    return f"transformers {version('transformers')} float32"


def _free_memory() -> int | None:
    """Bytes of memory that can be taken without swapping, where the system tells (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
