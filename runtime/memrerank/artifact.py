"""An artifact folder on disk: which files it has, whether they are whole, whether they are safe to open."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

from memrerank.errors import ArtifactError
from memrerank.manifest import GRAPH, TOKENIZER, FileRecord, Manifest, read_manifest
from memrerank.onnx_header import external_files, imported_domains

DOMAINS = ("", "ai.onnx", "com.microsoft")


def open_artifact(folder: Path, *, verify: bool) -> Manifest:
    """The manifest of the artifact in `folder`, after checking that its files are there and, with `verify`, whole."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; give the folder that memrerank-export wrote.")
    manifest = read_manifest(folder)
    check_files(folder, manifest.files, hashes=verify)
    check_graph(folder / GRAPH, manifest.files)
    return manifest


def check_files(folder: Path, files: Mapping[str, FileRecord], *, hashes: bool) -> None:
    """Raise ArtifactError that names the first file which is missing or differs from its record."""
    for required in (GRAPH, TOKENIZER):
        if required not in files:
            raise ArtifactError(f"The manifest in {folder} lists no {required}; export the artifact again.")
    for name, record in files.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise ArtifactError(f"The manifest in {folder} names {name!r}, which is not a plain file name.")
        path = folder / name
        if path.is_symlink() and path.resolve().parent != folder.resolve():
            raise ArtifactError(f"{path} is a link that leaves the artifact's folder; copy the file itself there.")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; copy the whole artifact again.")
        if path.stat().st_size != record.size:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes, its manifest says {record.size}; copy the artifact again."
            )
        if hashes and sha256_of(path) != record.sha256:
            raise ArtifactError(f"{path} was changed: its SHA-256 is not the manifest's. Copy the artifact again.")


def record_file(path: Path) -> FileRecord:
    """Size and SHA-256 of `path`."""
    return FileRecord(path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_graph(graph: Path, files: Collection[str]) -> None:
    """Refuse a graph with operators that need code of their own, or with weights in files that are not listed."""
    model = graph.read_bytes()
    try:
        domains, weights = imported_domains(model), external_files(model)
    except ValueError as error:
        raise ArtifactError(f"{graph} is not an ONNX model ({error}); copy the artifact again.") from error
    if foreign := sorted(domains - set(DOMAINS)):
        raise ArtifactError(
            f"{graph} uses operators of {', '.join(foreign)}; only standard and com.microsoft ones are run."
        )
    if unlisted := sorted(weights - set(files)):
        raise ArtifactError(f"{graph} has weights in {', '.join(unlisted)}, which the manifest does not list.")
