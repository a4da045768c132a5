"""DNS answers (RFC 1035, 3596): which addresses a client was told for the name it asked for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big, word_little
from producers.names.text import NAME_ROOM, write_host
from producers.names.told import ADDRESSES, EVENTS, MOST_ADDRESSES, Told, allocate_told, tell
from schemas.packets import NameSource

_DNS = int(NameSource.DNS)
_HEADER, _FIXED = 12, 10
_A, _CNAME, _AAAA, _INTERNET = 1, 5, 28, 1
_MAX_RECORDS = MOST_ADDRESSES
_MAX_LABELS = 128
_MAX_CHAIN = 16
_NO_TEXT, _BROKEN = -1, -2
_LONGEST_S = 0x7FFFFFFF
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of the hash FNV-1a
_UPPER, _LOWER, _DOT = 65, 97, 46


class DnsAnswer(NamedTuple):
    """An answer: the name in the question, and every address that its chain of aliases leads to."""

    name: str
    addresses: tuple[bytes, ...]
    """Of 4 or 16 bytes each, without repeats."""
    ttl_s: int
    """The least along the chain: how long the whole of it holds."""


class Records(NamedTuple):
    """Room for the records of one message that count. Names stand there by their hash."""

    owner: NDArray[np.uint64]
    target: NDArray[np.uint64]
    """Of an alias."""
    kind: NDArray[np.int64]
    ttl_s: NDArray[np.int64]
    data: NDArray[np.int64]
    """Index of the record's data."""
    name: NDArray[np.uint8]
    """(256,) the name read last"""


def allocate_records() -> Records:
    """Return room for the records of a message."""
    rows = _MAX_RECORDS
    return Records(
        np.zeros(rows, np.uint64),
        np.zeros(rows, np.uint64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(NAME_ROOM, np.uint8),
    )


@njit(cache=True, nogil=True)
def _read_name(
    data: NDArray[np.uint8], begin: int, at: int, stop: int, out: NDArray[np.uint8]
) -> tuple[int, int, np.uint64]:
    """Write the name at ``at``, in lower case, to ``out``; return (its length, index after it, its hash).

    The length is _NO_TEXT for a name that goes in circles and _BROKEN where it cannot be told where the name ends.
    Pointers, which count from ``begin``, may only lead backwards, so that no name is without end.
    """
    after, lowest, filled, hashed = -1, at, 0, _BASIS
    for _ in range(_MAX_LABELS):
        if at >= stop:
            break
        length = u8(data, at)
        if length & 0xC0 == 0xC0:
            if at + 1 >= stop:
                break
            target = begin + ((length & 0x3F) << 8 | u8(data, at + 1))
            if after < 0:
                after = at + 2
            if target >= lowest:
                return _NO_TEXT, after, hashed
            at = lowest = target
        elif length & 0xC0:
            break  # a label of an unknown kind
        elif length == 0:
            return max(filled - 1, 0), at + 1 if after < 0 else after, hashed
        else:
            if filled + length + 1 > 254 or at + 1 + length > stop:
                break
            for i in range(length):
                octet = u8(data, at + 1 + i)
                if _UPPER <= octet < _UPPER + 26:
                    octet += _LOWER - _UPPER
                out[filled + i] = octet
                hashed = (hashed ^ np.uint64(octet)) * _PRIME
            out[filled + length] = _DOT
            hashed = (hashed ^ np.uint64(_DOT)) * _PRIME
            filled += length + 1
            at += 1 + length
    return _BROKEN, at, hashed


@njit(cache=True, nogil=True)
def _read_records(
    data: NDArray[np.uint8], begin: int, at: int, stop: int, count: int, records: Records
) -> int:
    """Read the records from ``at`` on up to the first one that is broken or cut short; return how many."""
    n = 0
    for _ in range(min(count, _MAX_RECORDS)):
        length, at, owner = _read_name(data, begin, at, stop, records.name)
        if length == _BROKEN or at + _FIXED > stop:
            break
        kind, network = u16_big(data, at), u16_big(data, at + 2)
        ttl_s, octets = u32_big(data, at + 4), u16_big(data, at + 8)
        at += _FIXED
        if at + octets > stop:
            break
        if length >= 0 and network == _INTERNET:
            records.owner[n], records.kind[n], records.ttl_s[n], records.data[n] = owner, kind, ttl_s, at
            if kind == _CNAME:
                length, _, records.target[n] = _read_name(data, begin, at, stop, records.name)
                if length == _BROKEN:
                    break
                n += length >= 0
            elif (kind == _A and octets == 4) or (kind == _AAAA and octets == 16):
                n += 1
        at += octets
    return n


@njit(cache=True, nogil=True)
def _end_of_chain(records: Records, count: int, asked: np.uint64) -> tuple[np.uint64, int]:
    """Return (the name at the end of the aliases that begin with the name asked for, least TTL in s)."""
    name, ttl_s = asked, _LONGEST_S
    for _ in range(_MAX_CHAIN):
        alias = -1
        for n in range(count):
            if records.owner[n] == name:
                if records.kind[n] != _CNAME:
                    return name, ttl_s
                alias = n
        if alias < 0:
            break
        name, ttl_s = records.target[alias], min(ttl_s, records.ttl_s[alias])
    return name, ttl_s


@njit(cache=True, nogil=True)
def _enter(told: Told, first: int, data: NDArray[np.uint8], at: int, version: int) -> None:
    """Append the address at ``at``, unless it is among those from ``first`` on."""
    second = np.uint64(0)
    if version == 4:
        word = np.uint64(data[at]) | np.uint64(data[at + 1]) << np.uint64(8)
        word |= np.uint64(data[at + 2]) << np.uint64(16) | np.uint64(data[at + 3]) << np.uint64(24)
    else:
        word, second = word_little(data, at), word_little(data, at + 8)
    n = told.filled[ADDRESSES]
    for other in range(first, n):
        if (
            told.address[other, 0] == word
            and told.address[other, 1] == second
            and told.version[other] == version
        ):
            return
    told.address[n, 0], told.address[n, 1], told.version[n] = word, second, version
    told.filled[ADDRESSES] = n + 1


@njit(cache=True, nogil=True)
def tell_answer(
    told: Told,
    data: NDArray[np.uint8],
    begin: int,
    stop: int,
    row: int,
    client: NDArray[np.uint64],
    records: Records,
    name: NDArray[np.uint8],
) -> bool:
    """Append what the DNS message ``data[begin:stop]`` answers to ``told``, which must have room.

    Returns False for questions, errors, answers without addresses and broken bytes.
    """
    if stop - begin < _HEADER:
        return False
    flags, answers = u16_big(data, begin + 2), u16_big(data, begin + 6)
    # A response (QR) to a plain query (opcode 0) without an error; one question, as everybody asks.
    if not flags & 0x8000 or flags & 0x780F or u16_big(data, begin + 4) != 1 or not answers:
        return False
    length, at, asked = _read_name(data, begin, begin + _HEADER, stop, records.name)
    length = write_host(records.name, 0, length, name)
    if length < 0:
        return False
    count = _read_records(data, begin, at + 4, stop, answers, records)
    end, ttl_s = _end_of_chain(records, count, asked)
    first = told.filled[ADDRESSES]
    for n in range(count):
        if records.kind[n] != _CNAME and records.owner[n] == end:
            _enter(told, first, data, records.data[n], 4 if records.kind[n] == _A else 6)
            ttl_s = min(ttl_s, records.ttl_s[n])
    if told.filled[ADDRESSES] == first:
        return False
    n = told.filled[EVENTS]
    told.ttl_s[n], told.client[n, 0], told.client[n, 1] = ttl_s, client[0], client[1]
    tell(told, row, _DNS, name, length)
    return True


def parse_answer(message: bytes) -> DnsAnswer | None:
    """Return what a DNS message answers; None for questions, errors, answers without addresses and broken bytes."""
    told, client = allocate_told(), np.zeros(2, np.uint64)
    name = np.empty(NAME_ROOM, np.uint8)
    data = np.frombuffer(message, np.uint8)
    if not tell_answer(told, data, 0, len(data), 0, client, allocate_records(), name):
        return None
    count = int(told.filled[ADDRESSES])
    addresses = zip(told.address[:count], told.version[:count].tolist(), strict=True)
    return DnsAnswer(
        told.names(0, 1)[0],
        tuple(words.tobytes()[: 4 if version == 4 else 16] for words, version in addresses),
        int(told.ttl_s[0]),
    )
