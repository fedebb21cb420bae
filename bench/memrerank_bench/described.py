"""What a result says of an artifact."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from memrerank.manifest import read_manifest
from memrerank.reranker import artifact_folder


def describe_artifact(name: str) -> dict[str, Any]:
    """The kind, precision and size of an artifact; `weights` counts the numbers in its matrices."""
    folder = artifact_folder(name)
    manifest = read_manifest(folder)
    return {
        "name": Path(name).name,
        "model_id": manifest.model_id,
        "family": manifest.family,
        "architecture": manifest.architecture,
        "precision": manifest.precision,
        "built_for": manifest.device,
        "weights": sum(prod(record.shape) for record in manifest.plan.values()),
        "bytes": sum(record.size for record in manifest.files.values()),
    }
