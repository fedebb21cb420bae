"""manifest.json: everything an artifact says about itself. Both the exporter and the runtime hold to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from memrerank.calibration import Calibration, parse_calibration
from memrerank.errors import ArtifactError
from memrerank.files import parse_json, write_text
from memrerank.template import Rendering, Segment, Template

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"
TOKENIZER = "tokenizer.json"

T = TypeVar("T")


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of a file of the artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class LayerRecord:
    """How one weight matrix is stored, and its relative error ||W - stored W|| / ||W||."""

    form: str
    shape: tuple[int, ...]
    error: float


@dataclass(frozen=True)
class Limits:
    """`max_tokens`: the longest prompt that the graph takes; documents are cut to fit."""

    max_tokens: int


@dataclass(frozen=True)
class Probe:
    """A pair with its logit: a device that computes another one, by more than `tolerance`, is broken."""

    query: str
    document: str
    logit: float
    tolerance: float


@dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json.

    `probe` is None until the artifact has been run where it was made. `fidelity` compares it with a float reference, or
    says why there is none; `source` is what it was made from and how. `calibration` is None: scores are sigmoid(logit).
    """

    format_version: int
    model_id: str
    family: str
    architecture: str
    device: str
    precision: str
    plan: Mapping[str, LayerRecord]
    template: Template
    limits: Limits
    probe: Probe | None
    files: Mapping[str, FileRecord]
    calibration: Calibration | None
    fidelity: Mapping[str, Any]
    source: Mapping[str, Any]


def compute_model_id(files: Mapping[str, FileRecord], template: Template) -> str:
    """The digest of all that decides a logit: graph, weights, tokenizer and template."""
    content = {"files": {name: files[name].sha256 for name in sorted(files)}, "template": asdict(template)}
    return "sha256:" + hashlib.sha256(_canonical(content).encode()).hexdigest()


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json, replacing an old one in one step."""
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json of the artifact in `folder`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}; give the folder that memrerank-export wrote.")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); export the artifact again.") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has the format version {found!r}; this memrerank reads version {FORMAT_VERSION}. "
            "Export the artifact again, or install the memrerank that made it."
        )
    try:
        manifest = _parse(content)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid manifest ({error!r}); export the artifact again.") from error
    if compute_model_id(manifest.files, manifest.template) != manifest.model_id:
        raise ArtifactError(
            f"{path} was changed: its files and template do not give its model id. Export the artifact again."
        )
    if manifest.calibration is not None and manifest.calibration.model_id != manifest.model_id:
        raise ArtifactError(
            f"The calibration in {path} was fitted for another model ({manifest.calibration.model_id}, and this is "
            f"{manifest.model_id}); run memrerank-calibrate on this artifact."
        )
    return manifest


def _parse(content: Mapping[str, Any]) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        model_id=_typed(content["model_id"], str),
        family=_typed(content["family"], str),
        architecture=_typed(content["architecture"], str),
        device=_typed(content["device"], str),
        precision=_typed(content["precision"], str),
        plan={
            name: LayerRecord(_typed(r["form"], str), tuple(r["shape"]), float(r["error"]))
            for name, r in content["plan"].items()
        },
        template=_parse_template(content["template"]),
        limits=Limits(_typed(content["limits"]["max_tokens"], int)),
        probe=None if content["probe"] is None else _parse_probe(content["probe"]),
        files={
            name: FileRecord(_typed(r["size"], int), _typed(r["sha256"], str)) for name, r in content["files"].items()
        },
        calibration=None if content["calibration"] is None else parse_calibration(content["calibration"]),
        fidelity=_typed(content["fidelity"], dict),
        source=_typed(content["source"], dict),
    )


def _parse_template(content: Mapping[str, Any]) -> Template:
    document = _parse_segments(content["document"])
    _typed(document[0] if document else None, str)
    rendering = {name: _typed(value, str) for name, value in content["rendering"].items()}
    return Template(
        head=_parse_segments(content["head"]),
        query=_parse_segments(content["query"]),
        document=document,
        rendering=Rendering(**rendering),
        instruction=_optional(content["instruction"], str),
        token_types=_parse_token_types(content["token_types"]),
        padding=_optional(content["padding"], int),
    )


def _parse_segments(content: list[Any]) -> tuple[Segment, ...]:
    return tuple(segment if isinstance(segment, int) else _typed(segment, str) for segment in content)


def _parse_token_types(content: list[Any] | None) -> tuple[int, int] | None:
    if content is None:
        return None
    before, document = content
    return _typed(before, int), _typed(document, int)


def _parse_probe(content: Mapping[str, Any]) -> Probe:
    return Probe(
        _typed(content["query"], str),
        _typed(content["document"], str),
        float(content["logit"]),
        float(content["tolerance"]),
    )


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} where {kind.__name__} was expected")
    return value


def _optional(value: Any, kind: type[T]) -> T | None:
    return None if value is None else _typed(value, kind)


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
