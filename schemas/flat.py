"""Records of plain fields to bytes and back, without a call for each value.

A message of a bus is small, and a general Avro library spends most of its time on finding out, value by value, what it
already knew: the type. Here compiled code walks over a message once and says where each field is; whatever it does not
expect (bytes cut short, an array in several blocks, a value of another type) it leaves to the library, by None, which
then reads it or says what is wrong. So messages and errors are the library's, byte for byte and word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_INT, _LONG, _BOOLEAN, _BYTES, _STRING, _STRINGS, _LONGS = range(7)
_KINDS = {"int": _INT, "long": _LONG, "boolean": _BOOLEAN, "bytes": _BYTES, "string": _STRING}
_ARRAYS = {"string": _STRINGS, "long": _LONGS}
_KEPT, _MOST_KEPT_OCTETS = 64, 1 << 14
"""Lists of texts remembered: a topic has the same few in all its messages."""


class Flat:
    """Reads and writes records of a schema whose fields are numbers, texts, octets and arrays of texts or numbers."""

    def __init__(self, fields: list[tuple[str, int, bytes | None]]) -> None:
        """Take (name, kind, encoded default or None) of each field."""
        self._fields = fields
        self._kinds = np.array([kind for _, kind, _ in fields], np.int8)
        self._named = [(name, kind) for name, kind, _ in fields]
        self._empty = {name: _EMPTY.get(kind) for name, kind in self._named}

    def read(self, data: bytes, begin: int) -> dict[str, Any] | None:
        """Return the record that fills a message from ``begin`` on, arrays of numbers as int64; None: not plain."""
        places = np.empty((len(self._kinds), 4), np.int64)
        end, found = _find(data, begin, self._kinds, places)
        if end != len(data):
            return None
        # Most fields of most messages are empty: only the others are looked at one by one.
        record = self._empty.copy()
        try:
            for field, start, stop, count in places[:found].tolist():
                name, kind = self._named[field]
                if kind == _BYTES:
                    record[name] = data[start:stop]
                elif kind <= _LONG:
                    record[name] = start
                elif kind == _STRING:
                    record[name] = data[start:stop].decode()
                elif kind == _BOOLEAN:
                    record[name] = True
                elif kind == _STRINGS:
                    read = _texts if stop - start <= _MOST_KEPT_OCTETS else _texts.__wrapped__
                    record[name] = list(read(data[start:stop], count))
                else:
                    record[name] = _numbers(data, start, count)
        except UnicodeDecodeError:
            return None
        return record

    def write(self, head: bytes, record: Mapping[str, Any]) -> bytes | None:
        """Return a message of ``head`` and the record; None: not plain. Arrays of numbers are to be int64."""
        parts = [head]
        for name, kind, default in self._fields:
            value: Any = record.get(name)
            of = type(value)
            if kind == _BYTES and of is bytes:
                if value:
                    parts.append(_varint(len(value)))
                    parts.append(value)
                else:
                    parts.append(b"\0")
            elif (kind <= _LONG and of is int) and -_ENDS[kind] <= value < _ENDS[kind]:
                parts.append(_varint(value))
            elif kind == _BOOLEAN and of is bool:
                parts.append(b"\1" if value else b"\0")
            elif kind == _STRING and of is str and value.isascii():
                parts.append(_varint(len(value)))
                parts.append(value.encode())
            elif kind == _STRINGS and (of is list or of is tuple):
                parts.append(_encoded_texts(tuple(value)))
            elif kind == _LONGS and of is np.ndarray and value.dtype == np.int64 and value.ndim == 1:
                parts.append(_encoded_numbers(value).tobytes())
            elif default is not None and name not in record:
                parts.append(default)
            else:
                return None
        return b"".join(parts)


_EMPTY: dict[int, Any] = {_INT: 0, _LONG: 0, _BOOLEAN: False, _BYTES: b"", _STRING: ""}
_ENDS = {_INT: 1 << 31, _LONG: 1 << 63}


def flat(schema: Mapping[str, Any]) -> Flat | None:
    """Return what reads and writes records of a schema, as its file has it; None where a field is of another kind."""
    fields = []
    for field in schema["fields"]:
        kind = _kind(field["type"])
        if kind is None:
            return None
        fields.append((field["name"], kind, _default(kind, field)))
    return Flat(fields)


def _kind(of: Any) -> int | None:
    if isinstance(of, str):
        return _KINDS.get(of)
    if isinstance(of, dict) and of.get("type") == "array" and isinstance(of["items"], str):
        return _ARRAYS.get(of["items"])
    return None


def _default(kind: int, field: Mapping[str, Any]) -> bytes | None:
    """Return the default of a field as it is written; None where it has none, or not a plain one."""
    default = field.get("default")
    if kind <= _BOOLEAN and isinstance(default, int):
        return bytes([default]) if kind == _BOOLEAN else _varint(default)
    # The library takes no text for octets, though a default of octets is one.
    return b"\0" if default in ("", []) and kind != _BYTES else None


@lru_cache(1 << 10)
def _long_varint(value: int) -> bytes:
    """Return a number as Avro writes it: its sign in the lowest bit, seven bits an octet, the lowest first.

    Batches of one message share their times and epoch, which take nine turns each.
    """
    left = value << 1 if value >= 0 else ~(value << 1)
    octets = bytearray()
    while left > 127:
        octets.append(left & 127 | 128)
        left >>= 7
    octets.append(left)
    return bytes(octets)


_SHORT = [_long_varint.__wrapped__(value) for value in range(1 << 12)]


def _varint(value: int) -> bytes:
    return _SHORT[value] if 0 <= value < 1 << 12 else _long_varint(value)


@lru_cache(_KEPT)
def _texts(array: bytes, count: int) -> tuple[str, ...]:
    """Return the texts of an array that ``_find`` has walked over."""
    texts, (_, at) = [], _varint_at(array, 0)
    for _ in range(count):
        octets, at = _varint_at(array, at)
        texts.append(array[at : at + octets].decode())
        at += octets
    return tuple(texts)


@lru_cache(_KEPT)
def _encoded_texts(texts: tuple[str, ...]) -> bytes:
    octets = [text.encode() for text in texts]
    parts = [part for one in octets for part in (_varint(len(one)), one)]
    return b"".join([_varint(len(texts)), *parts, b"\0"]) if texts else b"\0"


@njit(cache=True, nogil=True)
def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it, which is -1 where there is no number."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < len(data) and shift < np.uint64(70):
        octet = np.uint64(data[at])
        at += 1
        value |= (octet & np.uint64(127)) << shift
        if octet < np.uint64(128):
            if shift == np.uint64(63) and octet > np.uint64(1):
                break
            return int(np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))), at
        shift += np.uint64(7)
    return 0, -1


@njit(cache=True, nogil=True)
def _find(data: bytes, at: int, kinds: NDArray[np.int8], places: NDArray[np.int64]) -> tuple[int, int]:
    """Write (field, start, stop, items) of each field that is not empty, of a number it in place of the start.

    Returns where the last field ends, -1 if the message is not plain, and how many fields were written.
    """
    found = 0
    for f in range(len(kinds)):
        kind, start, items = kinds[f], at, 0
        if kind == _BOOLEAN:
            if at >= len(data) or data[at] > 1:
                return -1, 0
            empty, at = data[at] == 0, at + 1
        else:
            value, at = _varint_at(data, at)
            if at < 0:
                return -1, 0
            empty = value == 0
            if _BYTES <= kind <= _STRING:
                if not 0 <= value <= len(data) - at:
                    return -1, 0
                start, at = at, at + value
            elif kind >= _STRINGS:
                empty, items = False, value
                at = _behind_items(data, at, items, kind == _STRINGS)
                if at < 0:
                    return -1, 0
            else:
                start = value
        if not empty:
            place = places[found]
            place[0], place[1], place[2], place[3] = f, start, at, items
            found += 1
    return at, found


@njit(cache=True, nogil=True)
def _behind_items(data: bytes, at: int, count: int, texts: bool) -> int:
    """Return the place behind an array of one block of so many items, -1 where it is no such array."""
    if count <= 0:
        return at if count == 0 else -1
    for _ in range(count):
        value, at = _varint_at(data, at)
        if at < 0:
            return -1
        if texts:
            if not 0 <= value <= len(data) - at:
                return -1
            at += value
    return at + 1 if at < len(data) and data[at] == 0 else -1


@njit(cache=True, nogil=True)
def _numbers(data: bytes, at: int, count: int) -> NDArray[np.int64]:
    """Return the numbers of an array that ``_find`` has walked over."""
    out = np.empty(count, np.int64)
    _, at = _varint_at(data, at)
    for i in range(count):
        out[i], at = _varint_at(data, at)
    return out


@njit(cache=True, nogil=True)
def _encoded_numbers(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return an array of numbers as it is written: one block, and the empty one that ends it."""
    out = np.empty(10 * len(values) + 11, np.uint8)
    at = 0
    for i in range(-1, len(values)):
        value = np.int64(len(values)) if i < 0 else values[i]
        left = np.uint64(value << 1) ^ np.uint64(value >> 63)
        while left > np.uint64(127):
            out[at] = np.uint8(left & np.uint64(127)) | np.uint8(128)
            left >>= np.uint64(7)
            at += 1
        out[at] = np.uint8(left)
        at += 1
    if len(values) > 0:
        out[at] = 0
        at += 1
    return out[:at]
