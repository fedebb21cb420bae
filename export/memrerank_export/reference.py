"""What an artifact's logits are compared with: the checkpoint as transformers runs it, or our own graph in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from memrerank.decoder import Decoder
from memrerank.encoder import Encoder
from memrerank.session import open_session
from memrerank.template import Template
from memrerank_export.config import DecoderConfig
from memrerank_export.weights import Weights

LOADING = 1.2
"""Memory that loading and running a model takes, in parts of its weights' size."""


class NoReferenceError(Exception):
    """Why a reference cannot be run on this machine."""


class Reference:
    """A float32 model: `name` says which, calling it gives the logit of a whole prompt's token ids."""

    def __init__(self, name: str, logit: Callable[[list[int]], float]) -> None:
        self.name = name
        self._logit = logit

    def __call__(self, ids: Iterable[int]) -> float:
        """The logit after the last of `ids`."""
        return self._logit(list(ids))


def transformers_reference(folder: Path, config: DecoderConfig, weights: Weights) -> Reference:
    """The decoder in `folder` as transformers runs it, with the checkpoint's score vector."""
    try:
        from transformers import AutoConfig, AutoModel

        import torch  # isort: skip  (only where transformers is there)
    except ImportError as error:
        raise NoReferenceError(f"{error.name} is not installed (pip install 'memrerank[encoders]')") from error
    _require_memory(weights)
    try:
        model_config = AutoConfig.from_pretrained(folder)
        model_config.rope_theta = config.rope_theta  # transformers 4 does not read it from rope_parameters
        model = AutoModel.from_pretrained(folder, config=model_config, dtype=torch.float32)
    except Exception as error:  # of many kinds; the artifact is written and needs no reference to work
        raise NoReferenceError(f"transformers cannot load the checkpoint ({error})") from error
    vector = torch.from_numpy(weights["score.weight"].read())

    def logit(ids: list[int]) -> float:
        with torch.inference_mode():
            states = model(torch.tensor([ids])).last_hidden_state
            return float(states[0, -1] @ vector)

    return Reference(f"transformers {version('transformers')} float32", logit)


def transformers_classifier(folder: Path, template: Template, weights: Weights) -> Reference:
    """The encoder in `folder` as transformers runs it on one pair."""
    from transformers import AutoModelForSequenceClassification

    import torch  # isort: skip

    _require_memory(weights)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )

    def logit(ids: list[int]) -> float:
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
        if template.token_types is not None:
            first = len(first_of_pair(template, ids))
            types = np.repeat(template.token_types, [first, len(ids) - first])
            inputs["token_type_ids"] = torch.from_numpy(types[None])
        with torch.inference_mode():
            return float(model(**inputs).logits[0, 0])

    return Reference(f"transformers {version('transformers')} float32", logit)


def own_classifier(graph: Path, template: Template) -> Reference:
    """The graph of an encoder's fp32 artifact, with weights that stay in their file."""
    encoder = Encoder(open_session(graph, weights_in_file=True), template.token_types)

    def logit(ids: list[int]) -> float:
        first = first_of_pair(template, ids)
        return float(encoder.logits(first, [ids[len(first) :]])[0])

    return Reference(f"memrerank {version('memrerank')} fp32", logit)


def first_of_pair(template: Template, ids: list[int]) -> list[int]:
    """What precedes the document: the ids up to the special tokens that only the template can put behind a query."""
    closing = [segment for segment in template.query if isinstance(segment, int)]
    return ids[: ids.index(closing[0], len(template.head)) + len(closing)]


def own_reference(graph: Path) -> Reference:
    """The graph of an fp32 artifact, with weights that stay in their file: it runs in little memory, but slowly."""
    decoder = Decoder(open_session(graph, weights_in_file=True))
    return Reference(
        f"memrerank {version('memrerank')} fp32", lambda ids: float(decoder.logits(decoder.empty(), [ids])[0])
    )


def _require_memory(weights: Weights) -> None:
    needed, free = LOADING * 4 * sum(weight.size for weight in weights.values()), _free_memory()
    if free is not None and needed > free:
        raise NoReferenceError(
            f"the checkpoint in float32 needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
        )


def _free_memory() -> int | None:
    """Bytes of memory that can be taken without swapping, where the system tells (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
