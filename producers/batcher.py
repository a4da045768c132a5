"""Groups packets by partition into batches, each with a directory of its flows.

Pure arrays: the probe and the replay put the batches on the bus, offline runs feed them to the flow table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns, allocate
from producers.names.answers import Answers, learn, name_of
from producers.names.batches import BatchNames
from producers.names.told import NOTHING_TOLD, Told
from schemas.compiled import compiled
from schemas.flow_key import partition_of
from schemas.packets import (
    COLUMNS,
    EXTRA_COLUMNS,
    FLOW_COLUMNS,
    MAX_HEADS_BYTES,
    MAX_PACKETS,
    NO_EXTRA,
    PACKET_COLUMNS,
    Extra,
    NameSource,
)

NOTHING_PENDING = np.iinfo(np.int64).max
"""Value of ``Batcher.since_ns`` where a partition holds no packet."""

HEAD_IDLE_NS = 60_000_000_000
"""Silence after which a flow's packets count as its first again: the flow table's own timeout by default."""
SEEN_FLOWS = 1 << 18
_SYN, _ACK = 2, 16

_EXTRA_NAMES = tuple(c.name for c in EXTRA_COLUMNS)
_INDEX_BITS = np.uint64(16)
_INDEX_MASK = np.uint64(0xFFFF)
_DNS = int(NameSource.DNS)
_NO_ROW = int(np.iinfo(np.int64).max)


class _Naming(NamedTuple):
    """The events that belong to the packets being taken in, and what they are entered in."""

    told: Told
    number: NDArray[np.uint32]
    """Number of the name of each event from ``start`` on."""
    start: int
    first_row: int
    """Row, as the events count, of the first packet."""
    answers: Answers
    counts: NDArray[np.int64]
    """(partitions,) named packets in the open batch; see ``producers.names.batches`` for these four."""
    packet: NDArray[np.uint16]
    name: NDArray[np.uint32]
    source: NDArray[np.uint8]


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
    tcp_sequence: NDArray[np.uint32]
    tcp_acknowledgment: NDArray[np.uint32]
    head_counts: NDArray[np.int64]
    """(partitions, 2): heads, and their octets"""
    head_packet: NDArray[np.uint16]
    head_length: NDArray[np.uint16]
    head: NDArray[np.uint8]
    """(partitions, octets)"""
    flow_direction: NDArray[np.uint8]
    seen_hash: NDArray[np.uint64]
    """What is known of flows, to tell their first packets: a newer flow takes the place of an older one."""
    seen_packets: NDArray[np.uint32]
    seen_ns: NDArray[np.int64]


@compiled(forceinline=True)
def _enter(naming: _Naming, p: int, k: int, number: int, source: int) -> None:
    """Name packet ``k`` of partition ``p``'s batch."""
    n = naming.counts[p]
    naming.packet[p, n], naming.name[p, n], naming.source[p, n] = k, number, source
    naming.counts[p] = n + 1


@compiled
def _name_first(
    new: PacketColumns,
    address_a: NDArray[np.uint64],
    address_b: NDArray[np.uint64],
    row: int,
    naming: _Naming,
    p: int,
    k: int,
) -> None:
    """Name the packet in ``row``, packet ``k`` of partition ``p``'s batch, by what DNS told of its addresses."""
    a, b = address_a[row], address_b[row]
    if new.direction[row]:
        a, b = b, a
    name = name_of(naming.answers, a[0], a[1], b[0], b[1], new.ip_version[row], new.time_ns[row])
    if name >= 0:
        _enter(naming, p, k, name, _DNS)


@compiled
def _row_of(naming: _Naming, event: int) -> int:
    """Return the row of the packet that an event belongs to; _NO_ROW after the last event."""
    if event >= naming.start + len(naming.number):
        return _NO_ROW
    return np.int64(naming.told.row[event]) - naming.first_row  # type: ignore[return-value]


@compiled
def _take_event(new: PacketColumns, row: int, naming: _Naming, p: int, k: int, event: int) -> None:
    """Take in what the packet in ``row`` told, which became packet ``k`` of partition ``p``'s batch."""
    source, number = naming.told.source[event], naming.number[event - naming.start]
    if source == _DNS:
        learn(naming.answers, naming.told, event, number, new.time_ns[row])
    else:
        _enter(naming, p, k, number, source)


@compiled
def _assign(
    new: PacketColumns,
    address_a: NDArray[np.uint64],
    address_b: NDArray[np.uint64],
    start: int,
    stop: int,
    now_ns: int,
    acc: _Accumulators,
    naming: _Naming | None,
    event: int,
    partition: NDArray[np.uint16],
    position: NDArray[np.uint16],
) -> tuple[int, int, int]:
    """Give rows from ``start`` up to ``stop`` a partition and a flow, until a partition is full.

    Returns (next row, that partition or -1, next event). Compiled without ``naming``, it holds nothing of names.
    """
    packets, flows, since_ns, generations = acc.packets, acc.flows, acc.since_ns, acc.generation
    slots, flow_index = acc.slots, acc.flow_index
    hashes, flow_a, flow_b = acc.flow_hash, acc.address_a, acc.address_b
    port_a, port_b, protocol, ip_version = acc.port_a, acc.port_b, acc.protocol, acc.ip_version
    new_hash, new_port_a, new_port_b = new.flow_hash, new.port_a, new.port_b
    new_protocol, new_ip_version = new.protocol, new.ip_version
    partitions, capacity = flow_index.shape
    mask = np.uint64(slots.shape[1] - 1)
    if naming is not None:
        event_row = _row_of(naming, event)
    for row in range(start, stop):
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
                if naming is not None:
                    _name_first(new, address_a, address_b, row, naming, p, packets[p])
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
        if naming is not None:
            while event_row == row:
                _take_event(new, row, naming, p, k, event)
                event += 1
                event_row = _row_of(naming, event)
        if k + 1 == capacity:
            return row + 1, int(p), event
    return stop, -1, event


@compiled
def _distribute(
    new: PacketColumns,
    address_a: NDArray[np.uint64],
    address_b: NDArray[np.uint64],
    start: int,
    stop: int,
    now_ns: int,
    acc: _Accumulators,
    naming: _Naming | None,
    event: int,
    partition: NDArray[np.uint16],
    position: NDArray[np.uint16],
    head_packets: int,
) -> tuple[int, int, int]:
    """Append rows from ``start`` to ``stop`` until a partition is full.

    Returns (next row, that partition or -1, next event).
    """
    stop, full, event = _assign(
        new, address_a, address_b, start, stop, now_ns, acc, naming, event, partition, position
    )
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
    if len(new.tcp_sequence):
        sequence, acknowledgment = acc.tcp_sequence, acc.tcp_acknowledgment
        new_sequence, new_acknowledgment = new.tcp_sequence, new.tcp_acknowledgment
        for row in range(start, stop):
            p, k = partition[row], position[row]
            sequence[p, k] = new_sequence[row]
            acknowledgment[p, k] = new_acknowledgment[row]
    if len(new.flow_direction):
        flow_direction, new_flow_direction = acc.flow_direction, new.flow_direction
        for row in range(start, stop):
            flow_direction[partition[row], position[row]] = new_flow_direction[row]
    if len(new.head_length):
        for row in range(start, stop):
            if new.head_length[row] and _is_among_first(new, row, acc, head_packets):
                _append_head(new, row, acc, partition[row], position[row])
    return stop, full, event


@compiled
def _is_among_first(new: PacketColumns, row: int, acc: _Accumulators, head_packets: int) -> bool:
    """Return whether a packet is among its flow's first; a flow that was silent, or that opens, begins anew."""
    flow_hash, time_ns = new.flow_hash[row], new.time_ns[row]
    at = flow_hash & np.uint64(len(acc.seen_hash) - 1)
    opens = new.tcp_flags[row] & (_SYN | _ACK) == _SYN
    if acc.seen_hash[at] != flow_hash or time_ns - acc.seen_ns[at] > HEAD_IDLE_NS or opens:
        acc.seen_hash[at] = flow_hash
        acc.seen_packets[at] = 0
        acc.seen_ns[at] = time_ns
    acc.seen_ns[at] = max(acc.seen_ns[at], time_ns)
    if acc.seen_packets[at] >= head_packets:
        return False
    acc.seen_packets[at] += 1
    return True


@compiled
def _append_head(new: PacketColumns, row: int, acc: _Accumulators, p: int, k: int) -> None:
    h, at, octets = acc.head_counts[p, 0], acc.head_counts[p, 1], new.head_length[row]
    acc.head_packet[p, h] = k
    acc.head_length[p, h] = octets
    for i in range(octets):
        acc.head[p, at + i] = new.heads[row, i]
    acc.head_counts[p, 0], acc.head_counts[p, 1] = h + 1, at + octets


def _words(addresses: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(addresses).view(np.uint64)


class Batcher:
    """Accumulates packets per partition and gives them back as the columns of a ``PacketBatch``.

    Packets of a partition keep the order of arrival; a flow stands in the directory once, in the order of its
    first packet. How the packets are cut into calls of ``add`` does not change the batches.

    Args:
        partitions: how many partitions flows are split over, at least 1.
        max_packets: packets in a full batch, 1 to ``schemas.packets.MAX_PACKETS``; fewer where their heads
            could make the message too long.
        extra: what the batches hold beyond the usual columns; ``add`` must be given the same.
        names: whether batches tell the names of flows (NAME_COLUMNS), which ``add`` is given then.
    """

    def __init__(
        self,
        partitions: int,
        max_packets: int = MAX_PACKETS,
        extra: Extra = NO_EXTRA,
        *,
        names: bool = False,
    ) -> None:
        if not 1 <= partitions <= 1 << 16:
            raise ValueError(f"{partitions} partitions; 1 to 65,536 are possible")
        if not 1 <= max_packets <= MAX_PACKETS:
            raise ValueError(f"batches of {max_packets} packets; 1 to {MAX_PACKETS} are possible")
        with_heads = bool(extra.head_packets and extra.head_octets)
        if with_heads:
            max_packets = min(max_packets, MAX_HEADS_BYTES // extra.head_octets)
        self.partitions = partitions
        self.max_packets = max_packets
        self.extra = extra
        self._columns: dict[str, NDArray[Any]] = {
            c.name: np.zeros((partitions, max_packets, *c.dtype.shape), dtype=c.dtype.base) for c in COLUMNS
        }
        tcp_packets, heads = max_packets if extra.tcp else 0, max_packets if with_heads else 0
        self._columns |= {
            "tcp_sequence": np.zeros((partitions, tcp_packets), np.uint32),
            "tcp_acknowledgment": np.zeros((partitions, tcp_packets), np.uint32),
            "head_packet": np.zeros((partitions, heads), np.uint16),
            "head_length": np.zeros((partitions, heads), np.uint16),
            "head": np.zeros((partitions, heads * extra.head_octets), np.uint8),
            "flow_direction": np.zeros((partitions, max_packets if extra.direction else 0), np.uint8),
        }
        slots = 1 << (2 * max_packets - 1).bit_length()
        seen = SEEN_FLOWS if with_heads else 1
        kept = {**self._columns}
        kept["address_a"], kept["address_b"] = _words(kept["address_a"]), _words(kept["address_b"])
        self._names = BatchNames(partitions, max_packets, names)
        self._acc = _Accumulators(
            packets=np.zeros(partitions, dtype=np.int64),
            flows=np.zeros(partitions, dtype=np.int64),
            since_ns=np.full(partitions, NOTHING_PENDING, dtype=np.int64),
            generation=np.ones(partitions, dtype=np.uint64),
            slots=np.zeros((partitions, slots), dtype=np.uint64),
            head_counts=np.zeros((partitions, 2), np.int64),
            seen_hash=np.zeros(seen, np.uint64),
            seen_packets=np.zeros(seen, np.uint32),
            seen_ns=np.zeros(seen, np.int64),
            **kept,
        )
        # Loads or compiles the kernel now, not when a packet is due.
        nothing, words = allocate(0), np.empty((0, 2), dtype=np.uint64)
        rows = np.empty(0, dtype=np.uint16)
        naming, event = self._naming(NOTHING_TOLD, 0, 0)
        _distribute(nothing, words, words, 0, 0, 0, self._acc, naming, event, rows, rows, 0)

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
        return sum(array.nbytes for array in self._acc) + self._names.state_bytes

    def add(
        self, columns: PacketColumns, now_ns: int = 0, told: Told = NOTHING_TOLD, first_row: int = 0
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Take in packets and yield (partition, columns of a full batch) whenever a partition is full.

        ``now_ns`` is the time by the caller's clock for the linger; ``since_ns`` gives it back.
        ``told`` is what these packets told: a flow has a name from the packet on that completed it, and what DNS
        told counts for the packets after it. The events' rows count from ``first_row`` at the first packet; those of
        other packets are left out.
        The yielded arrays are views that hold until the next step. Exhaust the iterator: the packets after an
        abandoned step are not taken in.
        """
        address_a, address_b = _words(columns.address_a), _words(columns.address_b)
        row, rows, head_packets = 0, columns.packets, self.extra.head_packets
        partition, position = np.empty(rows, dtype=np.uint16), np.empty(rows, dtype=np.uint16)
        naming, event = self._naming(told, first_row, rows)
        while row < rows:
            row, full, event = _distribute(
                columns, address_a, address_b, row, rows, now_ns, self._acc, naming, event,
                partition, position, head_packets,
            )  # fmt: skip
            if full >= 0:
                yield full, self._views(full)
                self._clear(full)

    def flush(self, partition: int | None = None) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Yield what waits in one partition, or in each in turn, as ``add`` does, without the empty ones."""
        for p in range(self.partitions) if partition is None else (partition,):
            if self._acc.packets[p]:
                yield p, self._views(p)
                self._clear(p)

    def forget_names(self) -> None:
        """Forget what DNS told: another run of the same packets begins."""
        self._names.forget_answers()

    def overdue(self, before_ns: int) -> list[int]:
        """Return the partitions whose first waiting packet was added at ``before_ns`` or earlier."""
        due = np.flatnonzero((self._acc.packets > 0) & (self._acc.since_ns <= before_ns))
        return [int(p) for p in due]

    def _naming(self, told: Told, first_row: int, rows: int) -> tuple[_Naming | None, int]:
        """Return what rows from ``first_row`` on told, and the first event; None where nobody asks for names."""
        names = self._names
        if not names.wanted:
            return None, 0
        event, stop = np.searchsorted(told.row, (first_row, first_row + rows)).tolist()
        number = names.numbers(told, event, stop)
        entered = names.answers, names.count, names.packet, names.name, names.source
        return _Naming(told, number, event, first_row, *entered), event

    def _views(self, p: int) -> dict[str, NDArray[Any]]:
        flows, packets = int(self._acc.flows[p]), int(self._acc.packets[p])
        columns = self._columns
        views = {c.name: columns[c.name][p, :flows] for c in FLOW_COLUMNS}
        views.update((c.name, columns[c.name][p, :packets]) for c in PACKET_COLUMNS)
        heads, octets = self._acc.head_counts[p]
        for name, rows in zip(_EXTRA_NAMES, (packets, packets, heads, heads, octets, packets), strict=True):
            views[name] = columns[name][p, :rows]
        return {**views, **self._names.columns(p)} if self._names.wanted else views

    def _clear(self, p: int) -> None:
        acc = self._acc
        acc.packets[p] = 0
        acc.flows[p] = 0
        acc.head_counts[p] = 0
        acc.since_ns[p] = NOTHING_PENDING
        self._names.count[p] = 0
        acc.generation[p] += np.uint64(1)
