"""Reads an ONNX file's nodes and weights, without the package ``onnx``: serving needs no more than ONNX Runtime.

Walks the few fields of the file's protobuf that hold them (onnx.proto: ``ModelProto.graph`` is field 7,
``GraphProto.node`` 1, ``GraphProto.initializer`` 5; ``NodeProto.input`` 1, ``output`` 2, ``op_type`` 4;
``TensorProto.dims`` 1, ``data_type`` 2, ``float_data`` 4, ``name`` 8, ``raw_data`` 9, ``double_data`` 10,
``data_location`` 14).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.packet.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""Of ``TensorProto.DataType``: those of floating point."""
Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class Node:
    """A step of a graph."""

    op: str
    inputs: tuple[str, ...]
    """Names of tensors; an empty one stands for what is left out."""
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """What a model computes; attributes of nodes, and weights that are no floating point, are left out."""

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, NDArray[np.floating]] = field(default_factory=dict)


def read_graph(data: bytes) -> Graph:
    """Return the graph of an ONNX file.

    Raises:
        ModelError: not an ONNX file, or one whose weights are in other files.
    """
    graph = Graph()
    found = [part for number, part in _fields(memoryview(data)) if number == 7]
    if len(found) != 1 or not isinstance(found[0], memoryview):
        raise ModelError("not an ONNX file: no graph in it")
    for number, part in _fields(found[0]):
        if number == 1 and isinstance(part, memoryview):
            graph.nodes.append(_node(part))
        elif number == 5 and isinstance(part, memoryview):
            name, weight = _weight(part)
            if weight is not None:
                graph.weights[name] = weight
    return graph


def unusable_weights(graph: Graph) -> list[str]:
    """Return the names of the weights that hold NaN or an infinity."""
    return [name for name, weight in graph.weights.items() if not np.isfinite(weight).all()]


def _node(message: memoryview) -> Node:
    op, inputs, outputs = "", [], []
    for number, value in _fields(message):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            op = _text(value)
    return Node(op, tuple(inputs), tuple(outputs))


def _weight(tensor: memoryview) -> tuple[str, NDArray[np.floating] | None]:
    name, kind = "?", 0
    shape: list[int] = []
    parts: list[memoryview] = []
    for number, value in _fields(tensor):
        if number == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = _text(value)
        elif number in (4, 9, 10) and isinstance(value, memoryview):
            parts.append(value)
        elif number == 14 and value == 1:
            raise ModelError("its weights are in another file; export them into the model")
    if kind not in _TYPES or not parts:
        return name, None
    return name, _numbers(b"".join(parts), _TYPES[kind], shape)


def _numbers(raw: bytes, dtype: str, shape: list[int]) -> NDArray[np.floating]:
    try:
        found: NDArray[np.floating] = np.frombuffer(raw, dtype).reshape(shape)
    except (ValueError, OverflowError):
        raise ModelError("not an ONNX file: a weight of broken length") from None
    return found


def _text(value: memoryview) -> str:
    return bytes(value).decode(errors="replace")


def _varints(message: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


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
