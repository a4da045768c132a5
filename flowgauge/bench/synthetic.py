"""Packet batches of as many flows as wanted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.flow_key import UDP, hash_words
from schemas.packets import COLUMNS, MAX_PACKETS, PacketBatch

START_NS = 1_700_000_000_000_000_000
_STEP_NS = 1000
"""A million flows begin within one second, so that none is idle before the last has come."""


@njit(cache=True, nogil=True)
def _hashes(address_a: NDArray[np.uint64], address_b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    out = np.empty(len(address_a), np.uint64)
    for i in range(len(out)):
        out[i] = hash_words(
            address_a[i, 0], address_a[i, 1], address_b[i, 0], address_b[i, 1], 53, 5353, UDP, 4
        )
    return out


def columns_of(first: int, flows: int) -> dict[str, NDArray[Any]]:
    """Return the columns of a batch with one packet of each of the flows from number ``first`` on."""
    columns = {c.name: np.zeros((flows, *c.dtype.shape), c.dtype.base) for c in COLUMNS}
    numbers = np.arange(first, first + flows, dtype=np.uint64)
    a, b = columns["address_a"].view(np.uint64), columns["address_b"].view(np.uint64)
    a[:, 0], b[:, 0] = numbers & np.uint64(0xFFFFFF), numbers | np.uint64(1 << 31)
    columns["port_a"][:], columns["port_b"][:], columns["protocol"][:] = 53, 5353, UDP
    columns["ip_version"][:] = 4
    columns["flow_hash"][:] = _hashes(a, b)
    columns["flow_index"][:] = np.arange(flows)
    columns["time_ns"][:] = START_NS + _STEP_NS * numbers.astype(np.int64)
    columns["octets"][:], columns["header_octets"][:], columns["ttl"][:] = 100, 28, 64
    return columns


def batches(flows: int, partitions: int) -> Iterator[PacketBatch]:
    """Yield batches that open ``flows`` flows, the same number in each partition."""
    share = -(-flows // partitions)
    for sequence, start in enumerate(range(0, share, MAX_PACKETS)):
        for partition in range(partitions):
            first = partition * share + start
            count = min(MAX_PACKETS, share - start, flows - first)
            if count > 0:
                yield PacketBatch(
                    "bench", 1, partition, partitions, sequence, START_NS, columns_of(first, count)
                )


def busy_batch(
    partition: int, partitions: int, sequence: int, first: int, flows: int, start_ns: int, step_ns: int
) -> PacketBatch:
    """Return a batch, as full as may be, of as many packets of each of the flows from number ``first`` on, in turn.

    Args:
        partition: of the batch; its flows are taken for flows of this partition.
        partitions: of the topic.
        sequence: of the batch in its partition.
        first: number of the first flow.
        flows: how many, at most ``MAX_PACKETS``.
        start_ns: event time of the first packet.
        step_ns: event time between two packets.
    """
    each = MAX_PACKETS // flows
    columns = columns_of(first, flows)
    for column in COLUMNS:
        if column.rows != "flow_count":
            values = columns[column.name]
            columns[column.name] = np.tile(values, (each, *[1] * (values.ndim - 1)))
    columns["time_ns"] = start_ns + step_ns * np.arange(flows * each, dtype=np.int64)
    return PacketBatch("bench", 1, partition, partitions, sequence, time.time_ns(), columns)
