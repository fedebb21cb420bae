"""Which operator domains an ONNX model imports, read from its bytes without the onnx package.

An ONNX file is a protobuf message (onnx.proto, ModelProto): field 8 lists the imported operator sets, whose field 1
is the domain. A node can only use a domain that is imported.
"""

from __future__ import annotations

from collections.abc import Iterator

_OPSET_IMPORT = 8
_DOMAIN = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def imported_domains(model: bytes) -> Iterator[str]:
    """The domain of every operator set that `model` imports; ValueError when it is no protobuf message."""
    for number, opset in _fields(memoryview(model)):
        if number == _OPSET_IMPORT:
            yield next((bytes(value).decode() for field, value in _fields(opset) if field == _DOMAIN), "")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Field number and content of each field; numbers come as their raw bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            _, end = _varint(message, position)
        elif kind == _BYTES:
            size, position = _varint(message, position)
            end = position + size
        elif kind in (_FIXED64, _FIXED32):
            end = position + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if end > len(message):
            raise ValueError("the file ends in the middle of a field")
        yield key >> 3, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("a number that does not end")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
