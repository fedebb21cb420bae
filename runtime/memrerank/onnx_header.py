"""What an ONNX model refers to, read from its bytes without the onnx package.

An ONNX file is a protobuf message (onnx.proto). ModelProto: field 7 is the graph and field 8 lists the imported
operator sets, whose field 1 is the domain; a node can only use a domain that is imported. GraphProto: field 5 lists
the initializers. TensorProto: field 13 lists the keys (1) and values (2) that say where outside the file it is.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def imported_domains(model: bytes) -> set[str]:
    """The domain of every operator set that `model` imports; ValueError when it is no protobuf message."""
    return {_text(opset, 1) for opset in _all(memoryview(model), 8)}


def external_files(model: bytes) -> set[str]:
    """The files in which initializers of `model` have their values."""
    entries = (
        entry
        for graph in _all(memoryview(model), 7)
        for initializer in _all(graph, 5)
        for entry in _all(initializer, 13)
    )
    return {_text(entry, 2) for entry in entries if _text(entry, 1) == "location"}


def _all(message: memoryview, number: int) -> Iterator[memoryview]:
    return (content for found, content in _fields(message) if found == number)


def _text(message: memoryview, number: int) -> str:
    return next((bytes(content).decode() for content in _all(message, number)), "")


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
