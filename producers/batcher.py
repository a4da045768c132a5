"""Groups packets by partition into batches, each with a directory of its flows.

Pure arrays: the probe and the replay put the batches on the bus, offline runs feed them to the flow table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.columns import PacketColumns, allocate
from schemas.flow_key import partition_of
from schemas.packets import COLUMNS, FLOW_COLUMNS, MAX_PACKETS, PACKET_COLUMNS

NOTHING_PENDING = np.iinfo(np.int64).max
"""Value of ``Batcher.since_ns`` where a partition holds no packet."""

_INDEX_BITS = np.uint64(16)
_INDEX_MASK = np.uint64(0xFFFF)


class _Accumulators(NamedTuple):
    """Arrays of all partitions: the first axis is the partition, the second the flow or packet.

    ``slots`` is each partition's hash table over its flow directory: generation << 16 | flow index. A slot of
    an earlier generation counts as empty, so that clearing a partition is one addition.
    """

    packets: NDArray[np.int64]
    flows: NDArray[np.int64]
    since_ns: NDArray[np.int64]
    generation: NDArray[np.uint64]
    slots: NDArray[np.uint64]
    flow_hash: NDArray[np.uint64]
    address_a: NDArray[np.uint64]
    """(partitions, flows, 2): the addresses as words"""
    address_b: NDArray[np.uint64]
    port_a: NDArray[np.uint16]
    port_b: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    flow_index: NDArray[np.uint16]
    time_ns: NDArray[np.int64]
    octets: NDArray[np.uint32]
    header_octets: NDArray[np.uint16]
    tcp_window: NDArray[np.uint16]
    tcp_flags: NDArray[np.uint8]
    ttl: NDArray[np.uint8]
    direction: NDArray[np.uint8]


@njit(cache=True, nogil=True)
def _assign(
    new: PacketColumns,
    address_a: NDArray[np.uint64],
    address_b: NDArray[np.uint64],
    start: int,
    now_ns: int,
    acc: _Accumulators,
    partition: NDArray[np.uint16],
    position: NDArray[np.uint16],
) -> tuple[int, int]:
    """Give rows from ``start`` on a partition and a flow, until a partition is full.

    Returns (next row, that partition or -1). The arrays are taken out of their tuples first: reaching into a
    tuple inside the loop would count a reference up and down, atomically, at each access.
    """
    packets, flows, since_ns, generations = acc.packets, acc.flows, acc.since_ns, acc.generation
    slots, flow_index = acc.slots, acc.flow_index
    hashes, flow_a, flow_b = acc.flow_hash, acc.address_a, acc.address_b
    port_a, port_b, protocol, ip_version = acc.port_a, acc.port_b, acc.protocol, acc.ip_version
    new_hash, new_port_a, new_port_b = new.flow_hash, new.port_a, new.port_b
    new_protocol, new_ip_version = new.protocol, new.ip_version
    partitions, capacity = flow_index.shape
    mask = np.uint64(slots.shape[1] - 1)
    for row in range(start, len(new_hash)):
        flow_hash = new_hash[row]
        p = np.int64(partition_of(flow_hash, partitions))
        generation = generations[p]
        at = flow_hash & mask
        f = np.int64(-1)
        while f < 0:
            slot = slots[p, at]
            if slot >> _INDEX_BITS != generation:
                f = flows[p]
                flows[p] = f + 1
                slots[p, at] = (generation << _INDEX_BITS) | np.uint64(f)
                hashes[p, f] = flow_hash
                flow_a[p, f, 0], flow_a[p, f, 1] = address_a[row, 0], address_a[row, 1]
                flow_b[p, f, 0], flow_b[p, f, 1] = address_b[row, 0], address_b[row, 1]
                port_a[p, f], port_b[p, f] = new_port_a[row], new_port_b[row]
                protocol[p, f], ip_version[p, f] = new_protocol[row], new_ip_version[row]
                break
            g = np.int64(slot & _INDEX_MASK)
            if (
                hashes[p, g] == flow_hash
                and flow_a[p, g, 0] == address_a[row, 0]
                and flow_b[p, g, 0] == address_b[row, 0]
                and flow_a[p, g, 1] == address_a[row, 1]
                and flow_b[p, g, 1] == address_b[row, 1]
                and port_a[p, g] == new_port_a[row]
                and port_b[p, g] == new_port_b[row]
                and protocol[p, g] == new_protocol[row]
                and ip_version[p, g] == new_ip_version[row]
            ):
                f = g
            at = (at + np.uint64(1)) & mask
        k = packets[p]
        packets[p] = k + 1
        if k == 0:
            since_ns[p] = now_ns
        flow_index[p, k] = f
        partition[row] = p
        position[row] = k
        if k + 1 == capacity:
            return row + 1, int(p)
    return len(new_hash), -1


@njit(cache=True, nogil=True)
def _distribute(
    new: PacketColumns,
    address_a: NDArray[np.uint64],
    address_b: NDArray[np.uint64],
    start: int,
    now_ns: int,
    acc: _Accumulators,
    partition: NDArray[np.uint16],
    position: NDArray[np.uint16],
) -> tuple[int, int]:
    """Append rows from ``start`` on until a partition is full; return (next row, that partition or -1)."""
    stop, full = _assign(new, address_a, address_b, start, now_ns, acc, partition, position)
    time_ns, octets, header_octets, tcp_window = acc.time_ns, acc.octets, acc.header_octets, acc.tcp_window
    tcp_flags, ttl, direction = acc.tcp_flags, acc.ttl, acc.direction
    new_time_ns, new_octets, new_header_octets = new.time_ns, new.octets, new.header_octets
    new_tcp_window, new_tcp_flags, new_ttl, new_direction = (
        new.tcp_window,
        new.tcp_flags,
        new.ttl,
        new.direction,
    )
    for row in range(start, stop):
        p, k = partition[row], position[row]
        time_ns[p, k] = new_time_ns[row]
        octets[p, k] = new_octets[row]
        header_octets[p, k] = new_header_octets[row]
        tcp_window[p, k] = new_tcp_window[row]
        tcp_flags[p, k] = new_tcp_flags[row]
        ttl[p, k] = new_ttl[row]
        direction[p, k] = new_direction[row]
    return stop, full


def _words(addresses: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(addresses).view(np.uint64)


class Batcher:
    """Accumulates packets per partition and gives them back as the columns of a ``PacketBatch``.

    Packets of a partition keep the order of arrival; a flow stands in the directory once, in the order of its
    first packet. How the packets are cut into calls of ``add`` does not change the batches.

    Args:
        partitions: how many partitions flows are split over, at least 1.
        max_packets: packets in a full batch, 1 to ``schemas.packets.MAX_PACKETS``.
    """

    def __init__(self, partitions: int, max_packets: int = MAX_PACKETS) -> None:
        if not 1 <= partitions <= 1 << 16:
            raise ValueError(f"{partitions} partitions; 1 to 65,536 are possible")
        if not 1 <= max_packets <= MAX_PACKETS:
            raise ValueError(f"batches of {max_packets} packets; 1 to {MAX_PACKETS} are possible")
        self.partitions = partitions
        self.max_packets = max_packets
        self._columns: dict[str, NDArray[Any]] = {
            c.name: np.zeros((partitions, max_packets, *c.dtype.shape), dtype=c.dtype.base) for c in COLUMNS
        }
        slots = 1 << (2 * max_packets - 1).bit_length()
        kept = {**self._columns}
        kept["address_a"], kept["address_b"] = _words(kept["address_a"]), _words(kept["address_b"])
        self._acc = _Accumulators(
            packets=np.zeros(partitions, dtype=np.int64),
            flows=np.zeros(partitions, dtype=np.int64),
            since_ns=np.full(partitions, NOTHING_PENDING, dtype=np.int64),
            generation=np.ones(partitions, dtype=np.uint64),
            slots=np.zeros((partitions, slots), dtype=np.uint64),
            **kept,
        )
        # Loads or compiles the kernel now, not when a packet is due.
        nothing, words = allocate(0), np.empty((0, 2), dtype=np.uint64)
        rows = np.empty(0, dtype=np.uint16)
        _distribute(nothing, words, words, 0, 0, self._acc, rows, rows)

    @property
    def pending(self) -> NDArray[np.int64]:
        """Packets that wait in each partition: (partitions,), a view that moves on."""
        return self._acc.packets

    @property
    def since_ns(self) -> NDArray[np.int64]:
        """When each partition's first waiting packet was added, or NOTHING_PENDING; a view that moves on."""
        return self._acc.since_ns

    @property
    def state_bytes(self) -> int:
        """Memory that the accumulators take."""
        return sum(array.nbytes for array in self._acc)

    def add(self, columns: PacketColumns, now_ns: int = 0) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Take in packets and yield (partition, columns of a full batch) whenever a partition is full.

        ``now_ns`` is the time by the caller's clock for the linger; ``since_ns`` gives it back.
        The yielded arrays are views that hold until the next step. Exhaust the iterator: the packets after an
        abandoned step are not taken in.
        """
        address_a, address_b = _words(columns.address_a), _words(columns.address_b)
        row, rows = 0, columns.packets
        partition, position = np.empty(rows, dtype=np.uint16), np.empty(rows, dtype=np.uint16)
        while row < rows:
            row, full = _distribute(
                columns, address_a, address_b, row, now_ns, self._acc, partition, position
            )
            if full >= 0:
                yield full, self._views(full)
                self._clear(full)

    def flush(self, partition: int | None = None) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yield what waits in one partition, or in each in turn, as ``add`` does, without the empty ones."""
        for p in range(self.partitions) if partition is None else (partition,):
            if self._acc.packets[p]:
                yield p, self._views(p)
                self._clear(p)

    def overdue(self, before_ns: int) -> list[int]:
        """Return the partitions whose first waiting packet was added at ``before_ns`` or earlier."""
        due = np.flatnonzero((self._acc.packets > 0) & (self._acc.since_ns <= before_ns))
        return [int(p) for p in due]

    def _views(self, p: int) -> dict[str, NDArray[Any]]:
        flows, packets = int(self._acc.flows[p]), int(self._acc.packets[p])
        columns = self._columns
        views = {c.name: columns[c.name][p, :flows] for c in FLOW_COLUMNS}
        views.update((c.name, columns[c.name][p, :packets]) for c in PACKET_COLUMNS)
        return views

    def _clear(self, p: int) -> None:
        acc = self._acc
        acc.packets[p] = 0
        acc.flows[p] = 0
        acc.since_ns[p] = NOTHING_PENDING
        acc.generation[p] += np.uint64(1)
