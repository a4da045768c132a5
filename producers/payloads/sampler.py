"""Chooses packets and copies their first octets, while what they were decoded from is still in memory.

To know a packet's flow, and which packet of it it is, the sampler follows flows as the flows agent does: by the
same rules of event time, so that its flow ids are those of the flow records. It keeps 40 bytes per flow in
arrays of fixed size. A flow may stand in any of 16 places that its hash leads to; if all are taken by flows that
still go on, the longest silent is forgotten, and counted.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.config import PayloadSettings
from producers.decoder.spans import Spans, allocate_spans
from producers.payloads.handshake import HANDSHAKE, NEITHER, TLS_DATA, TLS_HANDSHAKE, kind_of
from schemas.flow_key import mix, partition_of
from schemas.payloads import MASKED_OCTETS

WAYS = 16
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
# Bits of ``marks``: a TLS handshake is begun and done in each direction (shifted by it).
_REVERSED, _FIN_FWD, _FIN_REV, _ENDED, _BEGUN, _DONE = 1, 2, 4, 8, 16, 64
_NEVER_NS = -(1 << 62)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

# Places in the counts.
PACKETS, ROWS, OCTETS, EMPTY, FRAGMENTS, TRUNCATED, NOT_CHOSEN, EVICTED, COUNTS = range(9)
NAMES = (
    "packets", "rows", "octets", "empty", "fragments", "truncated", "not_chosen", "flows_evicted",
)  # fmt: skip
"""Names of the counts: ``packets == rows + empty + fragments + truncated + not_chosen``.

- ``empty``: nothing behind the transport header, or nothing behind the masked octets;
- ``fragments``: fragments of IP packets; ``truncated``: chosen, but the capture holds too few octets.
"""

DROPS = ("fragments", "truncated")
"""Of these, what could not be had; ``empty`` and ``not_chosen`` were not wanted."""

_FLOW = np.dtype(
    [
        ("start_ns", "i8"),
        ("last_ns", "i8"),
        ("packets", "u4"),
        ("payloads", "u4"),
        ("generation", "u4"),
        ("marks", "u1"),
    ],
    align=True,
)


class FlowRules(NamedTuple):
    """When a flow ends, in ns of event time; the defaults are those of the flows agent."""

    idle_ns: int = 60_000_000_000
    active_ns: int = 1_800_000_000_000
    linger_ns: int = 1_000_000_000
    lateness_ns: int = 200_000_000

    @property
    def step_back_ns(self) -> int:
        """How much older than the newest a packet must be to mean that the clock was set back."""
        return max(self.idle_ns, self.lateness_ns)


class _Choice(NamedTuple):
    """What the kernel has to know; scalars."""

    first_packets: int
    """0: by ``one_in``."""
    one_in: int
    octets: int
    idle_ns: int
    active_ns: int
    linger_ns: int
    lateness_ns: int
    step_back_ns: int


class _Memory(NamedTuple):
    """The flows followed, and each partition's clock."""

    flow_hash: NDArray[np.uint64]
    flows: NDArray[Any]
    """(places,) records of _FLOW; an older ``generation`` than its partition's means that the place is free."""
    watermark: NDArray[np.int64]
    generation: NDArray[np.uint32]


class PayloadRows(NamedTuple):
    """Chosen packets of a block, in its order."""

    row: NDArray[np.int64]
    """Row of the block."""
    start_ns: NDArray[np.int64]
    """Event time of the flow's first packet, as captured."""
    packet_number: NDArray[np.uint32]
    first_direction: NDArray[np.uint8]
    octets: NDArray[np.uint32]
    """Length of the IP payload as sent."""
    transport_octets: NDArray[np.uint16]
    handshake: NDArray[np.uint8]
    """1: the packet belongs to a TCP, TLS or QUIC handshake."""
    end: NDArray[np.int64]
    """Where the packet's octets end in ``data``; they begin where the one before ends."""
    data: NDArray[np.uint8]
    """Octets from MASKED_OCTETS on, without trailing zeros."""


def _allocate(rows: int, data: NDArray[np.uint8]) -> PayloadRows:
    return PayloadRows(
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.uint32),
        np.zeros(rows, np.uint8),
        np.zeros(rows, np.uint32),
        np.zeros(rows, np.uint16),
        np.zeros(rows, np.uint8),
        np.zeros(rows, np.int64),
        data,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _deadline(flow: Any, choice: _Choice) -> int:
    deadline: int = min(flow.last_ns + choice.idle_ns, flow.start_ns + choice.active_ns)
    if flow.marks & _ENDED:
        deadline = min(deadline, flow.last_ns + choice.linger_ns)
    return deadline


@njit(cache=True, nogil=True, error_model="numpy")
def _find(memory: _Memory, flow_hash: np.uint64) -> int:
    """Return the place of a flow, or -1."""
    first = np.int64(flow_hash & np.uint64(len(memory.flow_hash) // WAYS - 1)) * WAYS
    for place in range(first, first + WAYS):
        if memory.flow_hash[place] == flow_hash:
            return place
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def _make_room(memory: _Memory, flow_hash: np.uint64, choice: _Choice, counts: NDArray[np.int64]) -> int:
    """Return a place for a new flow: a free one, one of a flow that is over, or the longest silent flow's."""
    first = np.int64(flow_hash & np.uint64(len(memory.flow_hash) // WAYS - 1)) * WAYS
    silent = int(first)
    for place in range(first, first + WAYS):
        flow = memory.flows[place]
        partition = partition_of(memory.flow_hash[place], len(memory.watermark))
        if (
            flow.generation != memory.generation[partition]
            or _deadline(flow, choice) < memory.watermark[partition] - choice.lateness_ns
        ):
            return place
        if flow.last_ns < memory.flows[silent].last_ns:
            silent = place
    counts[EVICTED] += 1
    return silent


@njit(cache=True, nogil=True, error_model="numpy")
def _take(
    raw: NDArray[np.uint8],
    columns: PacketColumns,
    spans: Spans,
    start: int,
    stop: int,
    choice: _Choice,
    memory: _Memory,
    out: PayloadRows,
    filled: int,
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Follow flows over rows ``start`` to ``stop`` and copy chosen payloads to ``out`` from row ``filled`` on.

    Returns (next row, rows filled): the next row is before ``stop`` where ``out.data`` has to grow.
    """
    used = out.end[filled - 1] if filled else 0
    most = choice.octets - MASKED_OCTETS
    partitions = len(memory.watermark)
    for row in range(start, stop):
        if used + most > len(out.data):
            return row, filled
        counts[PACKETS] += 1
        flow_hash, time_ns = columns.flow_hash[row], columns.time_ns[row]
        p = partition_of(flow_hash, partitions)
        if time_ns > memory.watermark[p]:
            memory.watermark[p] = time_ns
        elif time_ns < memory.watermark[p] - choice.step_back_ns:
            memory.generation[p] += np.uint32(1)
            memory.watermark[p] = time_ns
        now_ns = max(time_ns, memory.watermark[p] - choice.lateness_ns)
        flags, direction = columns.tcp_flags[row], columns.direction[row]

        place = _find(memory, flow_hash)
        fresh = place < 0
        if fresh:
            place = _make_room(memory, flow_hash, choice, counts)
        flow = memory.flows[place]
        if not fresh:
            reused = flow.marks & _ENDED and flags & (_SYN | _ACK) == _SYN
            stale = flow.generation != memory.generation[p]
            fresh = stale or reused or now_ns > _deadline(flow, choice)
        if fresh:
            memory.flow_hash[place] = flow_hash
            flow.start_ns, flow.last_ns = time_ns, time_ns
            flow.packets, flow.payloads = 0, 0
            flow.generation = memory.generation[p]
            flow.marks = direction
        flow.last_ns = max(flow.last_ns, time_ns)
        flow.packets += np.uint32(1)
        if flags & (_FIN | _RST):
            if flags & _FIN:
                flow.marks |= _FIN_REV if direction ^ (flow.marks & _REVERSED) else _FIN_FWD
            if flags & _RST or (flow.marks & _FIN_FWD and flow.marks & _FIN_REV):
                flow.marks |= _ENDED

        begin = spans.start[row]
        if begin < 0:
            counts[FRAGMENTS] += 1
            continue
        octets = np.int64(columns.octets[row]) - spans.ip_octets[row]
        transport_octets = np.int64(columns.header_octets[row]) - spans.ip_octets[row]
        if octets <= transport_octets or octets <= MASKED_OCTETS:
            counts[EMPTY] += 1
            continue
        flow.payloads += np.uint32(1)
        if choice.first_packets:
            chosen = flow.payloads <= choice.first_packets
        else:
            dice = mix(flow_hash ^ (np.uint64(flow.packets) * _GOLDEN))
            chosen = dice % np.uint64(choice.one_in) == 0
        if not chosen:
            counts[NOT_CHOSEN] += 1
            continue
        wanted = min(octets, choice.octets)
        if spans.stop[row] - begin < wanted:
            counts[TRUNCATED] += 1
            continue
        kind = kind_of(raw, begin + transport_octets, begin + wanted, columns.protocol[row], flags)
        if kind == TLS_HANDSHAKE:
            flow.marks |= _BEGUN << direction
        elif kind == TLS_DATA:
            flow.marks |= _DONE << direction
        # A certificate goes over several segments, of which only the first begins like a record.
        goes_on = kind == NEITHER and flow.marks & ((_BEGUN | _DONE) << direction) == _BEGUN << direction
        out.handshake[filled] = kind in (HANDSHAKE, TLS_HANDSHAKE) or goes_on
        begin, end = begin + MASKED_OCTETS, begin + wanted
        while end > begin and raw[end - 1] == 0:
            end -= 1
        out.data[used : used + end - begin] = raw[begin:end]
        used += end - begin
        out.row[filled] = row
        out.start_ns[filled] = flow.start_ns
        out.packet_number[filled] = flow.packets
        out.first_direction[filled] = flow.marks & _REVERSED
        out.octets[filled] = octets
        out.transport_octets[filled] = transport_octets
        out.end[filled] = used
        filled += 1
        counts[ROWS] += 1
        counts[OCTETS] += end - begin
    return stop, filled


class PayloadSampler:
    """A tap (see ``producers.sources.reader.Tap``) that chooses packets of one probe.

    Args:
        settings: which packets; ``mode`` must not be off.
        partitions: how many partitions flows are split over: event time goes on in each for itself.
        rules: when flows end.
    """

    def __init__(self, settings: PayloadSettings, partitions: int, rules: FlowRules | None = None) -> None:
        rules = rules or FlowRules()
        self._choice = _Choice(
            settings.first_packets if settings.mode == "first" else 0,
            settings.one_in,
            settings.octets,
            *rules,
            rules.step_back_ns,
        )
        places = max(WAYS, 1 << (settings.max_flows - 1).bit_length())
        self._memory = _Memory(
            np.zeros(places, np.uint64),
            np.zeros(places, _FLOW),
            np.full(partitions, _NEVER_NS, np.int64),
            np.ones(partitions, np.uint32),
        )
        self.counts = np.zeros(COUNTS, np.int64)
        """By NAMES."""
        self.cpu_ns = 0
        """CPU time spent here."""
        self._filled = 0
        self.spans = allocate_spans(0)
        self._out = _allocate(0, np.empty(1 << 20, np.uint8))

    @property
    def state_bytes(self) -> int:
        """Memory of the flows followed, where every place was used once."""
        return self._memory.flow_hash.nbytes + self._memory.flows.nbytes

    def restart(self) -> None:
        """Forget all flows: what comes next is another stream."""
        self._memory.generation[:] += np.uint32(1)
        self._memory.watermark[:] = _NEVER_NS

    def begin(self, rows: int) -> None:
        """Forget the last block's rows; the next block has at most so many."""
        self._filled = 0
        if len(self.spans.start) < rows:
            self.spans = allocate_spans(rows)
            self._out = _allocate(rows, self._out.data)

    def take(self, raw: NDArray[np.uint8], columns: PacketColumns, start: int, stop: int) -> None:
        """Look at rows of a block."""
        began_ns = time.thread_time_ns()
        while True:
            start, self._filled = _take(
                raw, columns, self.spans, start, stop, self._choice, self._memory, self._out,
                self._filled, self.counts,
            )  # fmt: skip
            if start == stop:
                break
            data = self._out.data
            # Twice as much: np.resize would repeat the old content behind it.
            grown = np.empty(2 * len(data), np.uint8)
            grown[: len(data)] = data
            self._out = self._out._replace(data=grown)
        self.cpu_ns += time.thread_time_ns() - began_ns

    @property
    def rows(self) -> PayloadRows:
        """The chosen packets of the block; good until the next one is begun."""
        out, filled = self._out, self._filled
        used = int(out.end[filled - 1]) if filled else 0
        return PayloadRows(*(column[:filled] for column in out[:-1]), out.data[:used])  # type: ignore[arg-type,call-arg]

    def told(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(zip(NAMES, self.counts.tolist(), strict=True))
