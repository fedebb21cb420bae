"""The whole way from a checkpoint to an artifact folder: write it, then run it once and measure it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnx_ir as ir

from memrerank import Reranker
from memrerank.artifact import open_artifact, record_file, sha256_of
from memrerank.manifest import (
    FORMAT_VERSION,
    GRAPH,
    MANIFEST,
    TOKENIZER,
    WEIGHTS,
    LayerRecord,
    Manifest,
    Probe,
    compute_model_id,
    write_manifest,
)
from memrerank_calibration.pairs import Pair
from memrerank_export.config import DEVICES, PRECISIONS
from memrerank_export.errors import ExportError
from memrerank_export.fidelity import measure_fidelity
from memrerank_export.quantize import plan_for, quantize
from memrerank_export.reference import NoReferenceError, Reference
from memrerank_export.source import Source
from memrerank_export.store import store, stored_size
from memrerank_export.weights import Weights

PROBE = ("Who called?", "[2024-03-04 18:20] Nora: I called.")

PROBE_TOLERANCE = {
    ("cpu", "fp32"): 1e-3,
    ("cpu", "fp16"): 1e-3,
    ("cpu", "int8"): 3e-2,
    ("cpu", "int4"): 3e-2,
    ("cuda", "fp32"): 1e-2,
    ("cuda", "fp16"): 3e-2,
    ("cuda", "int8"): 3e-2,
    ("cuda", "int4"): 3e-2,
}
"""Share of the score's scale, by device and precision, by which another machine's logit may differ."""

NOT_MEASURED = {"reference": None, "reason": "it was not measured"}

Progress = Callable[[str, int, int], None]
"""Told the name of a stage and how many of how many steps are done."""


def export(
    source: Source,
    output: Path,
    precision: str,
    pairs: Sequence[Pair] | None,
    progress: Progress,
    *,
    device: str = "cpu",
) -> Manifest:
    """Make the artifact of a checkpoint in the folder `output`: write it, run it once, measure its fidelity on `pairs`.

    An artifact for `device` cuda is run on the CPU here, with the same numbers but for the last bits.

    `output` appears when all its files are whole, and is used as it is when an earlier export wrote it from the same
    checkpoint with the same options; so an export that was interrupted while it measured goes on from there.
    Without `pairs`, the fidelity is not measured.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"The precision is {precision!r}; one of {', '.join(PRECISIONS)} was expected.")
    if device not in DEVICES:
        raise ExportError(f"The device is {device!r}; one of {', '.join(DEVICES)} was expected.")
    earlier = _open_earlier(output) if output.exists() else None
    weights = source.weights()
    provenance = _provenance(source, progress)
    if earlier is None:
        manifest = _write(source, weights, output, precision, device, provenance, progress)
    else:
        manifest = _require_same(earlier, source, output, precision, device, provenance)
    reranker = Reranker.assemble(output, manifest, device="cpu", weights_in_file=precision in ("fp32", "fp16"))
    manifest = replace(manifest, probe=_measure_probe(reranker, source.logit_scale(weights)))
    write_manifest(manifest, output)
    if pairs is not None:
        fidelity = _fidelity(source, weights, reranker, pairs, output, progress)
        manifest = replace(manifest, fidelity=fidelity)
        write_manifest(manifest, output)
    return manifest


def write_model(
    source: Source, weights: Weights, precision: str, device: str, folder: Path, progress: Progress
) -> dict[str, LayerRecord]:
    """Write graph and weights into `folder`, with little of them in memory at a time; what became of each matrix."""
    # Transformations of the weights belong here: Weights -> Weights.
    model = source.graph_for(precision, device)
    plan = plan_for(model, precision, device)
    quantize(model, plan, device)
    _require_space(folder, stored_size(source.shapes, plan))
    total, done = sum(weight.size for weight in weights.values()), 0

    def on_numbers(more: int) -> None:
        nonlocal done
        done += more
        progress(f"writing {precision} weights", done, total)

    records = store(model, weights, plan, folder / WEIGHTS, on_numbers)
    ir.save(model, folder / GRAPH)
    return records


def _write(
    source: Source,
    weights: Weights,
    output: Path,
    precision: str,
    device: str,
    provenance: dict[str, Any],
    progress: Progress,
) -> Manifest:
    """Write the artifact in a temporary folder beside `output` that is renamed at the end."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_folder(output) as folder:
            layers = write_model(source, weights, precision, device, folder, progress)
            (folder / TOKENIZER).write_text(source.tokenizer_json, encoding="utf-8")
            manifest = _describe(source, folder, precision, device, layers, provenance)
            write_manifest(manifest, folder)
            folder.rename(output)
    except OSError as error:
        raise ExportError(f"The artifact cannot be written to {output} ({error}).") from error
    return manifest


def _describe(
    source: Source,
    folder: Path,
    precision: str,
    device: str,
    layers: dict[str, LayerRecord],
    provenance: dict[str, Any],
) -> Manifest:
    files = {name: record_file(folder / name) for name in (GRAPH, WEIGHTS, TOKENIZER)}
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id=compute_model_id(files, source.template),
        family=source.family,
        architecture=source.architecture,
        device=device,
        precision=precision,
        plan=layers,
        template=source.template,
        limits=source.limits,
        probe=None,
        files=files,
        calibration=None,
        fidelity=NOT_MEASURED,
        source=provenance,
    )


def _provenance(source: Source, progress: Progress) -> dict[str, Any]:
    folder = source.origin.folder
    names = sorted({"config.json", TOKENIZER, *(path.name for path in folder.glob("*.safetensors"))})
    hashes = {}
    for done, name in enumerate(names, start=1):
        hashes[name] = sha256_of(folder / name)
        progress("hashing the checkpoint", done, len(names))
    return {
        "checkpoint": source.origin.name,
        "revision": source.origin.revision,
        "files": hashes,
        "template": source.template_name,
        "score_tokens": source.score_tokens and [source.score_tokens.true, source.score_tokens.false],
        "made_by": f"memrerank-export {version('memrerank')}",
    }


def _open_earlier(output: Path) -> Manifest:
    """The manifest of the artifact that an earlier export left in `output`, after checking that it is whole."""
    if not (output / MANIFEST).is_file():
        raise ExportError(f"{output} exists already; give a new folder, or remove this one first.")
    return open_artifact(output, verify=True)


def _require_same(
    earlier: Manifest, source: Source, output: Path, precision: str, device: str, provenance: dict[str, Any]
) -> Manifest:
    """`earlier`, if it was made from this checkpoint with these options."""
    asked = (precision, device, source.template, source.limits, provenance)
    if (earlier.precision, earlier.device, earlier.template, earlier.limits, earlier.source) != asked:
        raise ExportError(
            f"{output} exists already and holds an artifact of another checkpoint, or one made with other options; "
            "give a new folder, or remove this one first."
        )
    return earlier


def _measure_probe(reranker: Reranker, scale: float) -> Probe:
    """The logit of the known pair here; its tolerance is a share of the usual size of logits."""
    query, document = PROBE
    logit = float(reranker.score(query, [document], raw=True)[0])
    tolerance = PROBE_TOLERANCE[reranker.manifest.device, reranker.manifest.precision]
    return Probe(query, document, logit, tolerance * scale)


def _fidelity(
    source: Source, weights: Weights, reranker: Reranker, pairs: Sequence[Pair], output: Path, progress: Progress
) -> dict[str, Any]:
    """The fidelity for the manifest: figures against the best reference that can run here, or null and the reason."""
    try:
        with _temporary_folder(output) as folder:
            progress("loading the reference", 0, 1)
            reference = _reference(source, weights, reranker.manifest.precision, folder, progress)
            progress("loading the reference", 1, 1)
            measured = measure_fidelity(
                reranker, reference, pairs, lambda *done: progress("comparing with the reference", *done)
            )
    except NoReferenceError as error:
        return {"reference": None, "reason": str(error)}
    return asdict(measured)


def _reference(source: Source, weights: Weights, precision: str, folder: Path, progress: Progress) -> Reference:
    """transformers where it can be run, else our own float32 graph, written to `folder` and read from there."""
    try:
        return source.reference(weights)
    except NoReferenceError as reason:
        if precision == "fp32":
            raise
        try:
            write_model(source, weights, "fp32", "cpu", folder, progress)
        except (ExportError, OSError) as error:
            raise NoReferenceError(f"{reason}; nor can a float32 artifact be written: {error}") from error
        return source.own_reference(folder / GRAPH)


@contextmanager
def _temporary_folder(output: Path) -> Iterator[Path]:
    """A hidden folder beside `output` that is gone in the end, if it was not renamed."""
    folder = output.with_name(f".{output.name}.{uuid4().hex[:8]}")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free beside {folder.name}; "
            "make room or give a folder on another disk."
        )
