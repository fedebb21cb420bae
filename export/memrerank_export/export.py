"""The whole way from a checkpoint folder to an artifact folder, a function per step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer

from memrerank import Reranker
from memrerank.artifact import record_file, sha256_of
from memrerank.manifest import (
    FORMAT_VERSION,
    GRAPH,
    TOKENIZER,
    WEIGHTS,
    LayerRecord,
    Limits,
    Manifest,
    Probe,
    compute_model_id,
    write_manifest,
)
from memrerank.tokenization import without_added_tokens
from memrerank_calibration.pairs import Pair
from memrerank_export.checkpoint import Checkpoint, open_checkpoint
from memrerank_export.config import PRECISIONS, Qwen3Config, parse_config
from memrerank_export.errors import CheckpointError, ExportError
from memrerank_export.fidelity import Progress, measure_fidelity
from memrerank_export.prompts import qwen3_template
from memrerank_export.quantize import plan_for, quantize
from memrerank_export.qwen3 import build_graph
from memrerank_export.weights import ScoreTokens, Weights, find_score_tokens, read_weights

MAX_TOKENS = 8192
"""The longest prompt of Qwen3-Reranker's published recipe."""

PROBE = ("Who called?", "[2024-03-04 18:20] Nora: I called.")

PROBE_TOLERANCE = {"fp32": 1e-3, "int8": 3e-2}
"""Share of the score's scale, by precision, by which another machine's logit may differ."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that has been read and found consistent."""

    checkpoint: Checkpoint
    config: Qwen3Config
    tokenizer: Tokenizer
    tokens: ScoreTokens
    weights: Weights


def read_source(folder: Path) -> Source:
    """Open the checkpoint in `folder`; CheckpointError says what is wrong with it."""
    checkpoint = open_checkpoint(folder)
    config = parse_config(checkpoint.config)
    tokenizer = _read_tokenizer(folder / TOKENIZER, config)
    tokens = find_score_tokens(checkpoint, tokenizer.token_to_id)
    return Source(checkpoint, config, tokenizer, tokens, read_weights(checkpoint, config, tokens))


def export(checkpoint: Path, output: Path, precision: str, pairs: Sequence[Pair], progress: Progress) -> Manifest:
    """Write the artifact of a checkpoint folder to the new folder `output`.

    All work happens in a temporary folder beside it that is renamed at the end, so `output` is whole or absent.
    `pairs` are what the artifact's fidelity is measured on.
    """
    if output.exists():
        raise ExportError(f"{output} exists already; give a new folder, or remove this one first.")
    if precision not in PRECISIONS:
        raise ExportError(f"The precision is {precision!r}; one of {', '.join(PRECISIONS)} was expected.")
    source = read_source(checkpoint)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
            folder = Path(temporary) / output.name
            folder.mkdir()
            manifest = _write_artifact(source, folder, precision, pairs, progress)
            folder.rename(output)
    except OSError as error:
        raise ExportError(f"The artifact cannot be written to {output} ({error}); nothing was left there.") from error
    return manifest


def _write_artifact(
    source: Source, folder: Path, precision: str, pairs: Sequence[Pair], progress: Progress
) -> Manifest:
    max_tokens = min(MAX_TOKENS, source.config.max_position_embeddings)
    # Transformations of the weights belong here: Weights -> Weights.
    model = build_graph(source.config, source.weights, max_tokens)
    layers = quantize(model, plan_for(model, precision), lambda *done: progress("quantizing", *done))
    _require_space(folder, model)
    _save(model, folder, progress)
    original = (source.checkpoint.folder / TOKENIZER).read_text(encoding="utf-8")
    (folder / TOKENIZER).write_text(without_added_tokens(original), encoding="utf-8")
    manifest = _describe(source, folder, precision, layers, max_tokens)
    reranker = Reranker.assemble(folder, manifest, device="cpu")
    manifest = replace(
        manifest,
        probe=_measure_probe(reranker, source.weights, precision),
        fidelity=measure_fidelity(reranker, pairs, source.checkpoint, source.config, source.weights, progress),
    )
    write_manifest(manifest, folder)
    return manifest


def _save(model: ir.Model, folder: Path, progress: Progress) -> None:
    """Write the graph and, tensor by tensor, its weights."""

    def on_tensor(_: ir.TensorProtocol, info: ir.external_data.CallbackInfo) -> None:
        progress("writing", info.index + 1, info.total)

    try:
        ir.save(model, folder / GRAPH, external_data=WEIGHTS, callback=on_tensor)
    except Exception as error:  # onnx-ir wraps what reading a small tensor raises
        raise _root_cause(error) from error


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _describe(
    source: Source, folder: Path, precision: str, layers: dict[str, LayerRecord], max_tokens: int
) -> Manifest:
    files = {name: record_file(folder / name) for name in (GRAPH, WEIGHTS, TOKENIZER)}
    template = qwen3_template(source.tokenizer)
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id=compute_model_id(files, template),
        family="decoder",
        architecture=source.config.architecture,
        device="cpu",
        precision=precision,
        plan=layers,
        template=template,
        limits=Limits(max_tokens),
        probe=Probe(*PROBE, logit=0.0, tolerance=0.0),
        files=files,
        calibration=None,
        fidelity={},
        source=_provenance(source),
    )


def _provenance(source: Source) -> dict[str, Any]:
    folder = source.checkpoint.folder.resolve()
    return {
        "checkpoint": folder.name,
        "files": {name: sha256_of(folder / name) for name in ("config.json", TOKENIZER, *source.checkpoint.files)},
        "score_tokens": [source.tokens.true, source.tokens.false],
        "made_by": f"memrerank-export {version('memrerank')}",
    }


def _measure_probe(reranker: Reranker, weights: Weights, precision: str) -> Probe:
    """The logit of the known pair here; its tolerance is a share of what the score vector's length makes usual."""
    query, document = PROBE
    logit = float(reranker.score(query, [document], raw=True)[0])
    scale = float(np.linalg.norm(weights["score.weight"].read() * weights["model.norm.weight"].read()))
    return Probe(query, document, logit, tolerance=PROBE_TOLERANCE[precision] * scale)


def _read_tokenizer(path: Path, config: Qwen3Config) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; memrerank needs the checkpoint's tokenizer.json.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} is not a tokenizer.json that can be read ({error}).") from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.get_vocab_size()} tokens and config.json a vocabulary of "
            f"{config.vocab_size}; use the tokenizer that belongs to the checkpoint."
        )
    return tokenizer


def _require_space(folder: Path, model: ir.Model) -> None:
    needed = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"The artifact needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free beside {folder.name}; "
            "make room or give a folder on another disk."
        )
