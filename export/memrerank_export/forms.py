"""The forms in which a weight matrix can be stored: numbers only, a block of rows at a time.

A matrix is [rows, columns] as in the checkpoint: a row is an output channel of a linear layer, or a token's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

LEVELS = 127
SMALLEST_SCALE = np.float32(1e-30)

BLOCK = 32
"""Columns of a row that share a step in the forms of MatMulNBits."""

SHRINKS = np.array([8 / 7, 1.05, 1.0, 0.96, 0.92, 0.88, 0.84, 0.8], np.float32)
"""Steps tried for an int4 block, in parts of the step that just covers it: clipping one value may serve the rest."""


@dataclass(frozen=True)
class Part:
    """A tensor that stores a matrix or a part of it; the matrix's rows lie along `rows_axis`."""

    suffix: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    rows_axis: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.numpy().itemsize


class Form(Protocol):
    """A way to store a matrix."""

    def parts(self, shape: tuple[int, int], *, transposed: bool) -> tuple[Part, ...]:
        """The tensors of a matrix of this shape; `transposed` where a linear layer wants [columns, rows]."""

    def encode(self, rows: Float) -> tuple[Array, ...]:
        """A block of rows as blocks of the parts, each with the rows along its first axis."""

    def decode(self, *parts: Array) -> Float:
        """The rows that such blocks stand for."""


@dataclass(frozen=True)
class FloatForm:
    """The numbers themselves, in 32 or 16 bits."""

    dtype: ir.DataType

    def parts(self, shape: tuple[int, int], *, transposed: bool) -> tuple[Part, ...]:
        """One tensor under the matrix's own name."""
        return (_levels_part("", self.dtype, shape, transposed=transposed),)

    def encode(self, rows: Float) -> tuple[Array, ...]:
        """Round to the type; raises OverflowError where a number is too large for it."""
        return (rows if self.dtype == ir.DataType.FLOAT else _as_half(rows),)

    def decode(self, *parts: Array) -> Float:
        """The stored numbers as float32."""
        return parts[0].astype(np.float32)


@dataclass(frozen=True)
class Int8Form:
    """8-bit levels -127..127 and one float32 step per row: the row's largest magnitude by 127."""

    def parts(self, shape: tuple[int, int], *, transposed: bool) -> tuple[Part, ...]:
        """Levels and steps; an embedding's steps are a column, to be gathered as rows."""
        scale_shape = (shape[0],) if transposed else (shape[0], 1)
        levels = _levels_part(".levels", ir.DataType.INT8, shape, transposed=transposed)
        return levels, Part(".scale", ir.DataType.FLOAT, scale_shape)

    def encode(self, rows: Float) -> tuple[Array, ...]:
        """The nearest multiples of the steps."""
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / np.float32(LEVELS), SMALLEST_SCALE)
        levels = rows / scale
        np.rint(levels, out=levels)
        np.clip(levels, -LEVELS, LEVELS, out=levels)
        return levels.astype(np.int8), scale

    def decode(self, *parts: Array) -> Float:
        """Levels times steps."""
        levels, scale = parts
        product: Float = levels.astype(np.float32) * scale
        return product


@dataclass(frozen=True)
class Int8BlockForm:
    """Levels 1..255 around 128 and a float16 step for every 32 columns of a row, as MatMulNBits has them."""

    def parts(self, shape: tuple[int, int], *, transposed: bool) -> tuple[Part, ...]:
        """Levels [rows, blocks, 32] and steps [rows, blocks], for a linear layer."""
        return _block_parts(shape, BLOCK, transposed=transposed)

    def encode(self, rows: Float) -> tuple[Array, ...]:
        """The nearest levels; those of a block whose step is 0 are 128."""
        blocks = _in_blocks(rows).reshape(len(rows), -1, BLOCK)
        scale = _as_half(np.abs(blocks).max(axis=2) / np.float32(LEVELS))
        step = scale.astype(np.float32)[..., None]
        levels = np.divide(blocks, step, out=np.zeros_like(blocks), where=step != 0)
        np.rint(levels, out=levels)
        np.clip(levels, -LEVELS, LEVELS, out=levels)
        return (levels + 128).astype(np.uint8), scale

    def decode(self, *parts: Array) -> Float:
        """(level - 128) times step, with the columns that fill up the last block."""
        levels, scale = parts
        rows = (levels.astype(np.float32) - 128) * scale.astype(np.float32)[..., None]
        product: Float = rows.reshape(len(rows), -1)
        return product


@dataclass(frozen=True)
class Int4Form:
    """Levels 0..15 around 8, two a byte, and a float16 step for every 32 columns of a row, as MatMulNBits has them.

    The value of largest magnitude in a block gets the level 0 (with a step of either sign), which uses all sixteen
    levels; of the steps in `SHRINKS` the one with the least squared error is taken.
    """

    def parts(self, shape: tuple[int, int], *, transposed: bool) -> tuple[Part, ...]:
        """Levels [rows, blocks, 16] and steps [rows, blocks], for a linear layer."""
        return _block_parts(shape, BLOCK // 2, transposed=transposed)

    def encode(self, rows: Float) -> tuple[Array, ...]:
        """The nearest levels, with the best of the steps."""
        # One block a column: sums over a block then add in one order on every CPU, so that bytes can be compared.
        blocks = np.ascontiguousarray(_in_blocks(rows).reshape(-1, BLOCK).T)
        scale = _best_scale(blocks)
        levels = (_int4_levels(blocks, scale) + 8).astype(np.uint8).T.reshape(len(rows), -1, BLOCK)
        return levels[..., 0::2] | levels[..., 1::2] << 4, _as_half(scale).reshape(len(rows), -1)

    def decode(self, *parts: Array) -> Float:
        """(level - 8) times step, with the columns that fill up the last block."""
        pairs, scale = parts
        levels = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:2], BLOCK)
        rows = (levels.astype(np.float32) - 8) * scale.astype(np.float32)[..., None]
        product: Float = rows.reshape(len(rows), -1)
        return product


FORMS: Mapping[str, Form] = {
    "fp32": FloatForm(ir.DataType.FLOAT),
    "fp16": FloatForm(ir.DataType.FLOAT16),
    "int8": Int8Form(),
    "int8-block": Int8BlockForm(),
    "int4": Int4Form(),
}


def _levels_part(suffix: str, dtype: ir.DataType, shape: tuple[int, int], *, transposed: bool) -> Part:
    rows, columns = shape
    return Part(suffix, dtype, (columns, rows), rows_axis=1) if transposed else Part(suffix, dtype, shape)


def _block_parts(shape: tuple[int, int], block_bytes: int, *, transposed: bool) -> tuple[Part, ...]:
    assert transposed, "blocks are for linear layers"
    blocks = -(-shape[1] // BLOCK)
    levels = Part(".levels", ir.DataType.UINT8, (shape[0], blocks, block_bytes))
    return levels, Part(".scale", ir.DataType.FLOAT16, (shape[0], blocks))


def _as_half(values: Float) -> npt.NDArray[np.float16]:
    """`values` rounded to float16; OverflowError where that would be infinite."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise OverflowError(f"{np.abs(values).max():.4g} is too large for 16 bits")
    return half


def _in_blocks(rows: Float) -> Float:
    """`rows` with zeros added up to a whole number of blocks."""
    padded: Float = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    return padded


def _best_scale(blocks: Float) -> Float:
    """The step of every column of `blocks` [32, blocks], as float32 that float16 holds exactly."""
    high, low = blocks.max(axis=0), blocks.min(axis=0)
    covering = np.where(high > -low, high, low) / np.float32(-8)
    best: Float = np.zeros_like(covering)
    least = np.full_like(covering, np.inf)
    for shrink in SHRINKS:
        scale = _as_half(covering * shrink).astype(np.float32)
        error = _int4_levels(blocks, scale)
        error *= scale
        error -= blocks
        np.square(error, out=error)
        total = error.sum(axis=0)
        better = total < least
        best[better], least[better] = scale[better], total[better]
    return best


def _int4_levels(blocks: Float, scale: Float) -> Float:
    """The nearest levels -8..7; those of a block whose step is 0 are 0."""
    inverse: Float = np.zeros_like(scale)
    np.divide(1, scale, out=inverse, where=scale != 0)
    levels = blocks * inverse
    np.rint(levels, out=levels)
    np.clip(levels, -8, 7, out=levels)
    return levels
