"""From an artifact and judged pairs to an artifact with a calibration."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memrerank import InputError, Reranker
from memrerank.artifact import sha256_of
from memrerank.calibration import Calibration
from memrerank.manifest import Manifest, write_manifest
from memrerank_calibration.fit import fit_curve
from memrerank_calibration.operating_points import operating_points
from memrerank_calibration.pairs import read_pairs
from memrerank_calibration.sample import Sample, score_pairs
from memrerank_calibration.validation import Validation, cross_validate

Progress = Callable[[int, int], object]
"""Is told how many pairs are scored, and of how many."""


@dataclass(frozen=True)
class Calibrated:
    """The folder of the calibrated artifact, its manifest, and what cross-validation found, if it was possible."""

    folder: Path
    manifest: Manifest
    sample: Sample
    validation: Validation | None

    @property
    def calibration(self) -> Calibration:
        """The calibration that was stored."""
        assert self.manifest.calibration is not None
        return self.manifest.calibration


def calibrate(
    artifact: Path, pairs_file: Path, output: Path | None, progress: Progress, device: str = "auto"
) -> Calibrated:
    """Score the pairs with the artifact itself, fit, and store the calibration in its manifest, or in a copy's.

    Nothing is written before the calibration is complete, and the manifest is replaced in one step.
    """
    pairs = read_pairs(pairs_file)
    _require_writable(artifact, output)
    reranker = Reranker.load(artifact, device=device)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        progress(done := done + count, len(pairs))

    sample = score_pairs(reranker, pairs, advance)
    data = {"file": pairs_file.name, "sha256": sha256_of(pairs_file)}
    calibration, validation = calibration_of(sample, reranker.manifest.model_id, data)
    manifest = replace(reranker.manifest, calibration=calibration)
    return Calibrated(_store(manifest, artifact, output), manifest, sample, validation)


def calibration_of(sample: Sample, model_id: str, data: dict[str, Any]) -> tuple[Calibration, Validation | None]:
    """The calibration of the model `model_id` from a sample; `data` says where that is from."""
    method, curve = fit_curve(sample)
    validation = cross_validate(sample)
    size = {
        "pairs": len(sample.logits),
        "queries": len(np.unique(sample.queries)),
        "positives": round(sample.positives, 3),
    }
    calibration = Calibration(
        model_id=model_id,
        method=method,
        base_rate=sample.base_rate,
        curve=curve,
        points=operating_points(sample),
        data=data | size,
        metrics={} if validation is None else validation.figures,
    )
    return calibration, validation


def _require_writable(artifact: Path, output: Path | None) -> None:
    """Find out before the work whether its result can be stored."""
    if output is None:
        if artifact.is_dir() and not os.access(artifact, os.W_OK):
            raise InputError(f"{artifact} cannot be written to; give --output DIR to calibrate a copy of it.")
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder; give another --output.")
    else:
        there = next(parent for parent in output.absolute().parents if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise InputError(f"{output} cannot be made, as {there} is not a folder that can be written to.")


def _store(manifest: Manifest, artifact: Path, output: Path | None) -> Path:
    if output is None:
        write_manifest(manifest, artifact)
        return artifact
    with _folder_in_one_step(output) as copy:
        for name in manifest.files:
            shutil.copyfile(artifact / name, copy / name)
        write_manifest(manifest, copy)
    return output


@contextmanager
def _folder_in_one_step(output: Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` if nothing fails, and is removed else."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        copy = Path(folder, "artifact")
        copy.mkdir()
        yield copy
        copy.replace(output)
