"""Reading a checkpoint folder: its JSON files, and its safetensors shards a few rows at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes  # noqa: F401  (registers bfloat16, which numpy lacks, for safetensors)
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from memrerank.files import parse_json
from memrerank_export.errors import CheckpointError

Array = npt.NDArray[np.float32]

JsonT = TypeVar("JsonT", dict[str, Any], list[Any])

_FLOAT_TYPES = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint folder, known by name and shape and read on demand."""

    folder: Path
    files: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    file_of: Mapping[str, str]

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of the tensor `name` as float32.

        The file is opened for the moment only: pages of a mapped file count as resident memory.
        """
        with safe_open(self.folder / self.file_of[name], framework="numpy") as shard:
            return _finite(name, shard.get_slice(name)[start:stop])


def open_tensors(folder: Path) -> Tensors:
    """Index the tensors of the checkpoint in `folder` without reading their values."""
    files = _shard_names(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    file_of: dict[str, str] = {}
    for file in files:
        for name, shape in _shapes_in(folder / file).items():
            shapes[name], file_of[name] = shape, file
    return Tensors(folder, files, shapes, file_of)


def read_json(path: Path, kind: type[JsonT]) -> JsonT:
    """The JSON value of type `kind` in `path`."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing from {path.parent}; a complete checkpoint folder has one.")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}).") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download the checkpoint again.") from error
    if not isinstance(content, kind):
        expected = "an object" if kind is dict else "an array"
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}; {expected} was expected.")
    return content


def _shard_names(folder: Path) -> tuple[str, ...]:
    """The safetensors files of the checkpoint: those the index names, or the single one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index, dict).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensors to file names; download the checkpoint again.")
        names = sorted(set(weight_map.values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(
                f"{index} names shards outside the checkpoint folder; plain file names were expected."
            )
    else:
        names = ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        hint = " Pickled weights (pytorch_model.bin) are never read." if list(folder.glob("*.bin")) else ""
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing) or 'safetensors shards'}; "
            f"put the complete safetensors files there.{hint}"
        )
    return tuple(names)


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="numpy") as shard:
            names = [name for name in shard.keys() if not name.endswith("position_ids")]  # old files store 0, 1, 2, ...
            slices = {name: shard.get_slice(name) for name in names}
            wrong = {name: s.get_dtype() for name, s in slices.items() if s.get_dtype() not in _FLOAT_TYPES}
            if wrong:
                name, dtype = next(iter(wrong.items()))
                raise CheckpointError(
                    f"{path.name} stores {name} as {dtype}; weights in {', '.join(_FLOAT_TYPES)} were expected."
                )
            return {name: tuple(s.get_shape()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error}); download it again.") from error


def _finite(name: str, stored: npt.NDArray[np.generic]) -> Array:
    tensor: Array = stored.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"Tensor {name} holds NaN or infinity; finite weights were expected.")
    return tensor
