"""The flow table's arrays and the compiled functions that find, add and remove rows.

One row holds one open flow: its key, its counts and the state of every chosen feature, side by side, so that
a packet touches few cache lines. An index with open addressing (linear probing, at most half full) finds a
row by its key. The flow hash is public, so whoever sends packets could choose them to fall on one place of an
index made by it; where a key stands here depends on numbers that each table draws for itself. All arrays are
as large as the bound on flows allows, but memory that no flow has used yet costs nothing: the operating system
maps a page when it is first written.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled, inner

BASE_FIELDS: list[tuple[str, str]] = [
    ("flow_hash", "u8"),
    ("a0", "u8"),
    ("a1", "u8"),
    ("b0", "u8"),
    ("b1", "u8"),
    ("start_ns", "i8"),
    ("last_ns", "i8"),
    ("octets_fwd", "i8"),
    ("octets_rev", "i8"),
    ("packets_fwd", "u4"),
    ("packets_rev", "u4"),
    ("port_a", "u2"),
    ("port_b", "u2"),
    ("protocol", "u1"),
    ("ip_version", "u1"),
    ("tcp_flags", "u1"),
    ("marks", "u1"),
]
SERVICE_FIELDS: list[tuple[str, str]] = [
    ("server_name", "u4"),
    ("service", "u2"),
    ("service_found_by", "u1"),
]
"""Only where services are named."""
WINDOW_FIELDS: list[tuple[str, str]] = [
    ("ends_ns", "i8"),
    ("octets_fwd", "i8"),
    ("octets_rev", "i8"),
    ("packets_fwd", "u4"),
    ("packets_rev", "u4"),
    ("tcp_flags", "u1"),
]

# Bits of ``marks``.
REVERSED, FIN_FWD, FIN_REV, ENDED = 1, 2, 4, 8

# Places in ``Table.meta``.
HIGH_WATER, FREE_HEAD, ACTIVE, HAND, WATERMARK, SHIFT, SECRET = 0, 1, 2, 3, 4, 5, 6
NEVER_NS = -(1 << 62)
"""Watermark before the first packet."""
FREE = -1
"""Deadlines at or below this mark a free row; ``FREE - 1 - next`` chains the free rows."""
SAMPLE = 16
"""Rows looked at to choose one to evict: a sampled LRU, as Redis does it."""


Key = tuple[np.uint64, np.uint64, np.uint64, np.uint64, int, int, int, int]
"""(a0, a1, b0, b1, port_a, port_b, protocol, ip_version)."""
SECRETS = 11
_LOW32, _S16, _S32, _S40 = np.uint64(0xFFFFFFFF), np.uint64(16), np.uint64(32), np.uint64(40)


class Table(NamedTuple):
    """Arrays of one flow table; a named tuple, so that Numba takes it."""

    rows: NDArray[Any]
    """(max_flows,) records: BASE_FIELDS and the features' states."""
    flows: NDArray[Any]
    """(max_flows,) BASE_FIELDS of ``rows``, in the same memory. The functions below know rows by these alone, so that
    they are compiled once, whatever features there are."""
    deadlines: NDArray[np.int64]
    """(max_flows,) event time before which the row needs no look, or free (see ``FREE``)."""
    slots: NDArray[np.uint32]
    """(2^k,) row number + 1, or 0."""
    meta: NDArray[np.int64]
    """(SECRET + SECRETS,) numbers about the table; last the random ones that decide where a key stands in ``slots``."""
    blank: NDArray[Any]
    """(1,) a row of zeros."""


def new_table(dtype: np.dtype[Any], max_flows: int) -> Table:
    """Return an empty table for ``max_flows`` open flows."""
    meta = np.zeros(SECRET + SECRETS, dtype=np.int64)
    meta[FREE_HEAD] = FREE
    meta[WATERMARK] = NEVER_NS
    places_bits = (2 * max_flows - 1).bit_length()
    meta[SHIFT] = 64 - places_bits
    meta[SECRET:] = np.frombuffer(os.urandom(8 * SECRETS), dtype=np.int64)
    meta[-1] |= 1
    rows, base = np.zeros(max_flows, dtype=dtype), np.dtype(BASE_FIELDS)
    return Table(
        rows=rows,
        flows=np.ndarray(max_flows, base, rows.view(np.uint8), strides=rows.strides),
        deadlines=np.zeros(max_flows, dtype=np.int64),
        slots=np.zeros(1 << places_bits, dtype=np.uint32),
        meta=meta,
        blank=np.zeros(1, dtype=dtype),
    )


def used_bytes(table: Table) -> int:
    """Return the memory the table's flows have touched: rows and deadlines ever used, and the whole index."""
    per_row = table.rows.itemsize + table.deadlines.itemsize
    return int(table.meta[HIGH_WATER]) * per_row + table.slots.nbytes


@compiled(inline="always")
def _product(word: np.uint64, low: np.int64, high: np.int64) -> np.uint64:
    """Return the product of a word's two halves after a secret is added to each."""
    return ((word + np.uint64(low)) & _LOW32) * (((word >> _S32) + np.uint64(high)) & _LOW32)


@compiled(inline="always")
def home(meta: NDArray[np.int64], key: Key) -> np.uint64:
    """Return the place in ``slots`` where a key is looked for first.

    NH (Black et al., UMAC, 1999) brings the key to 64 bits, of which a random odd factor makes the place: without
    the secret no one can choose keys that meet more often than by chance.
    """
    ports = (
        (np.uint64(key[6]) << _S40)
        | (np.uint64(key[7]) << _S32)
        | (np.uint64(key[4]) << _S16)
        | np.uint64(key[5])
    )
    total = (
        _product(key[0], meta[SECRET], meta[SECRET + 1])
        + _product(key[1], meta[SECRET + 2], meta[SECRET + 3])
        + _product(key[2], meta[SECRET + 4], meta[SECRET + 5])
        + _product(key[3], meta[SECRET + 6], meta[SECRET + 7])
        + _product(ports, meta[SECRET + 8], meta[SECRET + 9])
    )
    return (total * np.uint64(meta[SECRET + 10])) >> np.uint64(meta[SHIFT])


@compiled(inline="always")
def key_of(r: Any) -> Key:
    """Return the key of a row."""
    return (r.a0, r.a1, r.b0, r.b1, r.port_a, r.port_b, r.protocol, r.ip_version)


@inner
def find(
    flows: NDArray[Any], slots: NDArray[np.uint32], meta: NDArray[np.int64], flow_hash: np.uint64, key: Key
) -> int:
    """Return the row of a flow, or -1."""
    mask = np.uint64(len(slots) - 1)
    at = home(meta, key)
    while True:
        entry = slots[at]
        if entry == 0:
            return -1
        r = flows[entry - 1]
        if (
            r.flow_hash == flow_hash
            and r.a0 == key[0]
            and r.b0 == key[2]
            and r.port_a == key[4]
            and r.port_b == key[5]
            and r.protocol == key[6]
            and r.ip_version == key[7]
            and r.a1 == key[1]
            and r.b1 == key[3]
        ):
            return np.int64(entry) - 1  # type: ignore[return-value]
        at = (at + np.uint64(1)) & mask


@inner
def add(slots: NDArray[np.uint32], meta: NDArray[np.int64], deadlines: NDArray[np.int64], key: Key) -> int:
    """Return a free row, entered in the index under ``key``, which the caller writes into it.

    The caller has made sure that there is one.
    """
    row = meta[FREE_HEAD]
    if row >= 0:
        meta[FREE_HEAD] = FREE - 1 - deadlines[row]
    else:
        row = meta[HIGH_WATER]
        meta[HIGH_WATER] += 1
    mask = np.uint64(len(slots) - 1)
    at = home(meta, key)
    while slots[at] != 0:
        at = (at + np.uint64(1)) & mask
    slots[at] = row + 1
    meta[ACTIVE] += 1
    return int(row)


@inner
def remove(
    flows: NDArray[Any],
    slots: NDArray[np.uint32],
    meta: NDArray[np.int64],
    deadlines: NDArray[np.int64],
    row: int,
) -> None:
    """Take a row out of the index and chain it to the free rows."""
    mask = np.uint64(len(slots) - 1)
    one = np.uint64(1)
    at = home(meta, key_of(flows[row]))
    while slots[at] != row + 1:
        at = (at + one) & mask
    # Close the gap by moving back every later entry of the run that may stand here (Knuth, TAOCP 6.4, R).
    gap = at
    while True:
        at = (at + one) & mask
        entry = slots[at]
        if entry == 0:
            break
        place = home(meta, key_of(flows[entry - 1]))
        if ((at - place) & mask) >= ((at - gap) & mask):
            slots[gap] = entry
            gap = at
    slots[gap] = 0
    # No batch in progress may still take the row for the flow it held.
    flows[row].flow_hash = ~flows[row].flow_hash
    deadlines[row] = FREE - 1 - meta[FREE_HEAD]
    meta[FREE_HEAD] = row
    meta[ACTIVE] -= 1


@inner
def choose_victim(flows: NDArray[Any], meta: NDArray[np.int64]) -> int:
    """Return the longest silent of a few rows of a full table."""
    size = len(flows)
    hand = meta[HAND] % size
    victim = hand
    for step in range(min(SAMPLE, size)):
        row = (hand + step) % size
        if flows[row].last_ns < flows[victim].last_ns:
            victim = row
    meta[HAND] = (hand + SAMPLE) % size
    return victim
