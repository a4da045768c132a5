"""Chooses packets and copies their first octets, while what they were decoded from is still in memory.

To know a packet's flow, and which packet of it it is, the sampler follows flows as the flows agent does
(``producers.followed``), so that its flow ids are those of the flow records. It keeps 40 bytes per flow; one that
has to be forgotten is counted.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.config import PayloadSettings
from producers.decoder.spans import Spans, allocate_spans
from producers.followed import (
    OWN,
    REVERSED,
    FlowRules,
    Followed,
    begin_flow,
    count_packet,
    event_time,
    find,
    is_over,
    make_room,
    new_followed,
)
from producers.payloads.handshake import HANDSHAKE, NEITHER, TLS_DATA, TLS_HANDSHAKE, kind_of
from schemas.compiled import compiled
from schemas.flow_key import mix, partition_of
from schemas.payloads import MASKED_OCTETS

# Bits of ``marks``: a TLS handshake is begun and done in each direction (shifted by it).
_BEGUN, _DONE = OWN, OWN << 2
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


class _Choice(NamedTuple):
    """What the kernel has to know; scalars."""

    first_packets: int
    """0: by ``one_in``."""
    one_in: int
    octets: int


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


@compiled(error_model="numpy")
def _take(
    raw: NDArray[np.uint8],
    columns: PacketColumns,
    spans: Spans,
    start: int,
    stop: int,
    choice: _Choice,
    rules: FlowRules,
    followed: Followed,
    out: PayloadRows,
    filled: int,
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Follow flows over rows ``start`` to ``stop`` and copy chosen payloads to ``out`` from row ``filled`` on.

    Returns (next row, rows filled): the next row is before ``stop`` where ``out.data`` has to grow.
    """
    used = out.end[filled - 1] if filled else 0
    most = choice.octets - MASKED_OCTETS
    partitions = len(followed.watermark)
    for row in range(start, stop):
        if used + most > len(out.data):
            return row, filled
        counts[PACKETS] += 1
        flow_hash, time_ns = columns.flow_hash[row], columns.time_ns[row]
        p = partition_of(flow_hash, partitions)
        watermark = event_time(followed, p, time_ns, rules)
        followed.watermark[p] = watermark
        now_ns = max(time_ns, watermark - rules.lateness_ns)
        flags, direction = columns.tcp_flags[row], columns.direction[row]

        place = find(followed, flow_hash)
        fresh = place < 0
        if fresh:
            place, evicted = make_room(followed, flow_hash, rules)
            counts[EVICTED] += evicted
        flow = followed.flows[place]
        if fresh or is_over(flow, followed.generation[p], now_ns, flags, rules):
            followed.flow_hash[place] = flow_hash
            begin_flow(flow, followed.generation[p], time_ns, direction)
            flow.payloads = 0
        count_packet(flow, time_ns, flags, direction)

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
        for i in range(end - begin):
            out.data[used + i] = raw[begin + i]
        used += end - begin
        out.row[filled] = row
        out.start_ns[filled] = flow.start_ns
        out.packet_number[filled] = flow.packets
        out.first_direction[filled] = flow.marks & REVERSED
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
        first = settings.first_packets if settings.mode == "first" else 0
        self._choice = _Choice(first, settings.one_in, settings.octets)
        self._rules = rules or FlowRules()
        self._followed = new_followed(settings.max_flows, partitions, (("payloads", "u4"),))
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
        return self._followed.state_bytes

    def restart(self) -> None:
        """Forget all flows: what comes next is another stream."""
        self._followed.forget()

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
                raw, columns, self.spans, start, stop, self._choice, self._rules, self._followed, self._out,
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
