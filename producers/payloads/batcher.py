"""Groups chosen packets by partition into payload batches, each with a directory of its flows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.batcher import NOTHING_PENDING
from producers.columns import PacketColumns
from producers.payloads.sampler import PayloadRows
from schemas.compiled import compiled
from schemas.flow_key import flow_id_of, partition_of
from schemas.payloads import COLUMNS, FLOW_COLUMNS, MASKED_OCTETS, MAX_ROWS, ROW_COLUMNS

_SLOTS = 2 * MAX_ROWS
_INDEX_BITS = np.uint64(16)
_INDEX_MASK = np.uint64(0xFFFF)


class _Accumulators(NamedTuple):
    """Arrays of all partitions: the first axis is the partition, the second the flow, packet or octet.

    ``slots`` is each partition's hash table over its flow directory, as in ``producers.batcher``.
    """

    packets: NDArray[np.int64]
    flows: NDArray[np.int64]
    used: NDArray[np.int64]
    since_ns: NDArray[np.int64]
    generation: NDArray[np.uint64]
    slots: NDArray[np.uint64]
    flow_id: NDArray[np.uint64]
    start_ns: NDArray[np.int64]
    address_a: NDArray[np.uint8]
    address_b: NDArray[np.uint8]
    port_a: NDArray[np.uint16]
    port_b: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    first_direction: NDArray[np.uint8]
    flow_index: NDArray[np.uint16]
    time_ns: NDArray[np.int64]
    packet_number: NDArray[np.uint32]
    octets: NDArray[np.uint32]
    transport_octets: NDArray[np.uint16]
    length: NDArray[np.uint16]
    direction: NDArray[np.uint8]
    handshake: NDArray[np.uint8]
    payload: NDArray[np.uint8]


@compiled
def _flow_at(acc: _Accumulators, p: int, flow_id: np.uint64) -> tuple[int, bool]:
    """Return the flow's row in the partition's directory, and whether it is new there."""
    mask, generation = np.uint64(acc.slots.shape[1] - 1), acc.generation[p]
    at = flow_id & mask
    while True:
        slot = acc.slots[p, at]
        if slot >> _INDEX_BITS != generation:
            f = acc.flows[p]
            acc.flows[p] = f + 1
            acc.slots[p, at] = (generation << _INDEX_BITS) | np.uint64(f)
            return int(f), True
        f = np.int64(slot & _INDEX_MASK)
        if acc.flow_id[p, f] == flow_id:
            return int(f), False
        at = (at + np.uint64(1)) & mask


@compiled
def _deal(
    block: PacketColumns,
    chosen: PayloadRows,
    start: int,
    stop: int,
    offset_ns: int,
    probe_hash: np.uint64,
    now_ns: int,
    acc: _Accumulators,
) -> tuple[int, int]:
    """Deal out the chosen packets from ``start`` to ``stop``; return (next one, partition that is full or -1)."""
    partitions, capacity = acc.flow_index.shape
    for i in range(start, stop):
        row = chosen.row[i]
        start_ns = max(0, chosen.start_ns[i] + offset_ns)
        flow_id = flow_id_of(block.flow_hash[row], probe_hash, start_ns)
        p = np.int64(partition_of(flow_id, partitions))
        f, fresh = _flow_at(acc, p, flow_id)
        if fresh:
            acc.flow_id[p, f], acc.start_ns[p, f] = flow_id, start_ns
            for octet in range(16):
                acc.address_a[p, f, octet] = block.address_a[row, octet]
                acc.address_b[p, f, octet] = block.address_b[row, octet]
            acc.port_a[p, f], acc.port_b[p, f] = block.port_a[row], block.port_b[row]
            acc.protocol[p, f], acc.ip_version[p, f] = block.protocol[row], block.ip_version[row]
            acc.first_direction[p, f] = chosen.first_direction[i]
        k, used = acc.packets[p], acc.used[p]
        begin = chosen.end[i - 1] if i else 0
        length = chosen.end[i] - begin
        acc.flow_index[p, k] = f
        acc.time_ns[p, k] = block.time_ns[row]
        acc.packet_number[p, k] = chosen.packet_number[i]
        acc.octets[p, k] = chosen.octets[i]
        acc.transport_octets[p, k] = chosen.transport_octets[i]
        acc.length[p, k] = length
        acc.direction[p, k] = block.direction[row]
        acc.handshake[p, k] = chosen.handshake[i]
        for octet in range(length):
            acc.payload[p, used + octet] = chosen.data[begin + octet]
        acc.used[p] = used + length
        acc.packets[p] = k + 1
        if k == 0:
            acc.since_ns[p] = now_ns
        if k + 1 == capacity:
            return i + 1, int(p)
    return stop, -1


class PayloadBatcher:
    """Accumulates payloads per partition and gives them back as the columns of a ``PayloadBatch``.

    Args:
        partitions: how many partitions flows are split over.
        octets: octets of an IP payload that are looked at.
        max_rows: packets in a full batch, 1 to ``schemas.payloads.MAX_ROWS``.
    """

    def __init__(self, partitions: int, octets: int, max_rows: int = MAX_ROWS) -> None:
        self.partitions = partitions
        self._columns: dict[str, NDArray[Any]] = {
            c.name: np.zeros((partitions, max_rows, *c.dtype.shape), c.dtype.base)
            for c in (*FLOW_COLUMNS, *ROW_COLUMNS)
        }
        self._columns["payload"] = np.zeros((partitions, max_rows * (octets - MASKED_OCTETS)), np.uint8)
        self._acc = _Accumulators(
            packets=np.zeros(partitions, np.int64),
            flows=np.zeros(partitions, np.int64),
            used=np.zeros(partitions, np.int64),
            since_ns=np.full(partitions, NOTHING_PENDING, np.int64),
            generation=np.ones(partitions, np.uint64),
            slots=np.zeros((partitions, _SLOTS), np.uint64),
            **{c.name: self._columns[c.name] for c in COLUMNS},
        )

    @property
    def since_ns(self) -> NDArray[np.int64]:
        """When each partition's first waiting packet was added, or NOTHING_PENDING; a view that moves on."""
        return self._acc.since_ns

    @property
    def state_bytes(self) -> int:
        """Memory of the accumulators, once all was used."""
        return sum(array.nbytes for array in self._acc)

    def add(
        self,
        block: PacketColumns,
        chosen: PayloadRows,
        rows: tuple[int, int],
        offset_ns: int,
        probe_hash: np.uint64,
        now_ns: int = 0,
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Take in the chosen packets of some rows and yield (partition, columns) whenever a partition is full.

        Args:
            block: the packets, their times moved by ``offset_ns``.
            chosen: the block's chosen packets.
            rows: first row of the block, and the one after the last.
            offset_ns: what the flows' starts, as captured, are moved by.
            probe_hash: of the probe's name.
            now_ns: the time by the caller's clock for the linger; ``since_ns`` gives it back.

        The yielded arrays are views that hold until the next step.
        """
        at, stop = (int(i) for i in np.searchsorted(chosen.row, rows))
        while at < stop:
            at, full = _deal(block, chosen, at, stop, offset_ns, probe_hash, now_ns, self._acc)
            if full >= 0:
                yield full, self._views(full)
                self._clear(full)

    def flush(self, partition: int) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yield what waits in a partition, as ``add`` does; nothing where nothing waits."""
        if self._acc.packets[partition]:
            yield partition, self._views(partition)
            self._clear(partition)

    def overdue(self, before_ns: int) -> list[int]:
        """Return the partitions whose first waiting packet was added at ``before_ns`` or earlier."""
        due = np.flatnonzero((self._acc.packets > 0) & (self._acc.since_ns <= before_ns))
        return [int(p) for p in due]

    def _views(self, p: int) -> dict[str, NDArray[Any]]:
        flows, packets, used = (int(a[p]) for a in (self._acc.flows, self._acc.packets, self._acc.used))
        columns = self._columns
        views = {c.name: columns[c.name][p, :flows] for c in FLOW_COLUMNS}
        views.update((c.name, columns[c.name][p, :packets]) for c in ROW_COLUMNS)
        views["payload"] = columns["payload"][p, :used]
        return views

    def _clear(self, p: int) -> None:
        acc = self._acc
        acc.packets[p] = acc.flows[p] = acc.used[p] = 0
        acc.since_ns[p] = NOTHING_PENDING
        acc.generation[p] += np.uint64(1)
