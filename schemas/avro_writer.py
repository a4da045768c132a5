"""Values as Avro writes them: by compiled code into a buffer of messages, and beforehand where they stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.address_writer import HEX, write_address

Bytes = NDArray[np.uint8]

INTEGER_BYTES = 10
"""Most bytes of an integer of 64 bits."""
ID_BYTES = 17
"""Bytes of an id: its length, then its characters."""
ADDRESS_BYTES = 40
"""Most bytes of an address: its length, then its characters."""
_ID_LENGTH = 2 * 16
"""What Avro writes before a text of 16 characters."""
_NO_LABEL, LABEL = 0, 2
"""What is written before a label: which branch of the union ``[null, string]`` follows."""


class Texts(NamedTuple):
    """Encoded values one behind the other, for compiled code to choose from."""

    octets: Bytes
    ends: NDArray[np.int64]
    """(values + 1,) where each begins, and the last ends."""


def avro_integer(value: int) -> bytes:
    """Return an integer of 64 bits as Avro writes it."""
    left = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while left > 127:
        out.append((left & 127) | 128)
        left >>= 7
    return bytes((*out, left))


def avro_text(text: str) -> bytes:
    """Return a text as Avro writes it: its length in bytes, then its UTF-8."""
    raw = text.encode()
    return avro_integer(len(raw)) + raw


def avro_label(label: str | None) -> bytes:
    """Return a label, or none, as Avro writes it."""
    return bytes((_NO_LABEL,)) if label is None else bytes((LABEL,)) + avro_text(label)


def avro_boolean(value: bool) -> bytes:
    """Return a truth value as Avro writes it."""
    return b"\x01" if value else b"\x00"


def texts_of(values: Iterable[bytes]) -> Texts:
    """Return encoded values to choose from."""
    values = tuple(values)
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=ends[1:])
    return Texts(np.frombuffer(b"".join(values), np.uint8), ends)


def cut(out: Bytes, ends: NDArray[np.int64], key_at: int) -> tuple[list[bytes], list[str]]:
    """Return the messages that lie one behind the other in a buffer, and their keys.

    Args:
        out: begins with them.
        ends: (messages,) where each ends.
        key_at: where in each message the 16 characters of its key begin.
    """
    stops: Sequence[int] = ends.tolist()
    raw = out[: stops[-1] if stops else 0].tobytes()
    begins = [0, *stops[:-1]]
    # Texts are sliced off at a third of the price of writing numbers anew.
    text, behind = raw.decode("latin-1"), key_at + 16
    keys = [text[begin + key_at : begin + behind] for begin in begins[: len(stops)]]
    return [raw[begin:end] for begin, end in zip(begins, stops, strict=False)], keys


@njit(cache=True, nogil=True, inline="always")
def put_text(texts: Texts, number: int, out: Bytes, at: int) -> int:
    """Write one of several encoded values at a place in ``out``; like all of these, return the place behind it."""
    for i in range(texts.ends[number], texts.ends[number + 1]):
        out[at] = texts.octets[i]
        at += 1
    return at


@njit(cache=True, nogil=True, inline="always")
def put_integer(value: int, out: Bytes, at: int) -> int:
    """Write a zigzag varint."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left > np.uint64(127):
        out[at] = np.uint8((left & np.uint64(127)) | np.uint64(128))
        left >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@njit(cache=True, nogil=True, inline="always")
def put_word(value: np.uint64, size: int, out: Bytes, at: int) -> int:
    """Write as many bytes of a word, the lowest first: 8 of a double's bits, 4 of a float's."""
    for i in range(size):
        out[at + i] = np.uint8((value >> np.uint64(8 * i)) & np.uint64(255))
    return at + size


@njit(cache=True, nogil=True, inline="always")
def put_id(value: np.uint64, out: Bytes, at: int) -> int:
    """Write the text of a number of 64 bits: 16 hexadecimal digits."""
    out[at] = _ID_LENGTH
    for i in range(16):
        out[at + 1 + i] = HEX[(value >> np.uint64(60 - 4 * i)) & np.uint64(15)]
    return at + ID_BYTES


@njit(cache=True, nogil=True)
def put_address(address: Bytes, version: int, out: Bytes, at: int) -> int:
    """Write the text of an address, as ``schemas.community_id.address_text`` has it, its length before it."""
    begin = at
    at = write_address(address, version, out, at + 1)
    out[begin] = 2 * (at - begin - 1)
    return at


@njit(cache=True, nogil=True)
def put_endpoints(row: Any, out: Bytes, at: int) -> int:
    """Write a row's source and destination, protocol and ``start_ns``, as records of flows and of packets have them."""
    at = put_address(row["source_address"], row["ip_version"], out, at)
    at = put_address(row["destination_address"], row["ip_version"], out, at)
    at = put_integer(np.int64(row["source_port"]), out, at)
    at = put_integer(np.int64(row["destination_port"]), out, at)
    at = put_integer(np.int64(row["protocol"]), out, at)
    return put_integer(row["start_ns"], out, at)
