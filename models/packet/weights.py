"""Reads the weights out of an ONNX file, to find those that are no numbers.

ONNX Runtime does not give a model's weights away, and serving needs no more than ONNX Runtime; so this walks the
few fields of the file's protobuf that hold them (onnx.proto: ``ModelProto.graph`` is field 7, ``GraphProto.node`` 1,
``GraphProto.initializer`` 5, ``TensorProto.data_type`` 2, ``float_data`` 4, ``name`` 8, ``raw_data`` 9,
``double_data`` 10, ``data_location`` 14).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.packet.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""Of ``TensorProto.DataType``: those that can hold what is no number."""
Field = tuple[int, int | memoryview]


def unusable_weights(data: bytes) -> list[str]:
    """Return the names of the weights that hold NaN or an infinity.

    Raises:
        ModelError: not an ONNX file, or one whose weights are in other files.
    """
    return [name for name, dtype, raw in _tensors(memoryview(data)) if not _is_finite(raw, dtype)]


def _is_finite(raw: memoryview, dtype: str) -> bool:
    if len(raw) % np.dtype(dtype).itemsize:
        raise ModelError("not an ONNX file: a weight of broken length")
    return bool(np.isfinite(np.frombuffer(raw, dtype)).all())


def _tensors(model: memoryview) -> Iterator[tuple[str, str, memoryview]]:
    """Yield (name, NumPy type, bytes) of each weight of the model that is floating point."""
    graphs = 0
    for number, graph in _fields(model):
        if number == 7 and isinstance(graph, memoryview):
            graphs += 1
            for inner, tensor in _fields(graph):
                if inner == 5 and isinstance(tensor, memoryview):
                    yield from _tensor(tensor)
    if graphs != 1:
        raise ModelError("not an ONNX file: no graph in it")


def _tensor(tensor: memoryview) -> Iterator[tuple[str, str, memoryview]]:
    name, kind, parts = "?", 0, []
    for number, value in _fields(tensor):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode(errors="replace")
        elif number in (4, 9, 10) and isinstance(value, memoryview):
            parts.append(value)
        elif number == 14 and value == 1:
            raise ModelError("its weights are in another file; export them into the model")
    if kind in _TYPES:
        for part in parts:
            yield name, _TYPES[kind], part


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield (number, value) of each field of a protobuf message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ModelError("not an ONNX file")
        if size > end - at:
            raise ModelError("not a whole ONNX file")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(message):
            raise ModelError("not a whole ONNX file")
        byte = message[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise ModelError("not an ONNX file")
