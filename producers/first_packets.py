"""Leaves out what comes after the first packets of each flow, for users whose models need no more.

RFC 7014 calls this flow-state dependent packet selection. Flows are followed (``producers.followed``) as the flows
agent will see them, which is by the packets that it gets: so what begins a flow there is the first packet of one
here. A packet is sent if

- it is among its flow's first;
- it ends the flow, or its flow has been ended (FIN both ways or RST): the agent ends the flow when it would;
- it told a server's name or a DNS answer;
- the last packet of its flow that was sent is some seconds away: so the agent keeps the flow open, its end time
  is right to within these seconds, event time goes on, and the probe is not taken for silent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns, allocate
from producers.followed import (
    ACK,
    ENDED,
    FIN,
    RST,
    SYN,
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
from producers.names.told import NOTHING_TOLD, Told
from schemas.compiled import compiled
from schemas.flow_key import partition_of
from schemas.packets import NO_EXTRA, Extra

SIGN_OF_LIFE_NS = 4_000_000_000
"""Longest that a flow with packets is not heard of."""

# Places in the counts.
_LEFT_OUT, _EVICTED = 0, 1


class Selection(NamedTuple):
    """Which packets are sent."""

    packets: int
    """Of each flow, at least 1."""
    max_flows: int = 1 << 18
    """Most flows followed; beyond, the longest silent of 16 is forgotten, and sends its first packets again."""
    rules: FlowRules = FlowRules()
    """When flows end."""
    sign_of_life_ns: int = SIGN_OF_LIFE_NS


class _Choice(NamedTuple):
    """What the kernel has to know; scalars."""

    packets: int
    sign_of_life_ns: int
    head_packets: int


class _Chosen(NamedTuple):
    """What the kernel writes."""

    row: NDArray[np.int64]
    """Rows chosen."""
    has_head: NDArray[np.bool_]
    """Of each row chosen, whether the packet is among those of its flow whose head is sent."""
    event_row: NDArray[np.int64]
    """Of each event, which of the rows chosen it belongs to."""


@compiled(error_model="numpy")
def _choose(
    columns: PacketColumns,
    start: int,
    stop: int,
    told_row: NDArray[np.int64],
    choice: _Choice,
    rules: FlowRules,
    followed: Followed,
    out: _Chosen,
    counts: NDArray[np.int64],
) -> int:
    """Follow flows over rows ``start`` to ``stop`` and write down those to be sent; return how many."""
    chosen, event, events = 0, 0, len(told_row)
    partitions = len(followed.watermark)
    while event < events and told_row[event] < start:
        out.event_row[event] = -1
        event += 1
    for row in range(start, stop):
        flow_hash, time_ns = columns.flow_hash[row], columns.time_ns[row]
        p = partition_of(flow_hash, partitions)
        watermark = event_time(followed, p, time_ns, rules)
        now_ns = max(time_ns, watermark - rules.lateness_ns)
        flags, direction = columns.tcp_flags[row], columns.direction[row]

        place = find(followed, flow_hash)
        fresh = place < 0
        if fresh:
            place, evicted = make_room(followed, flow_hash, rules)
            counts[_EVICTED] += evicted
        flow = followed.flows[place]
        if fresh or is_over(flow, followed.generation[p], now_ns, flags, rules):
            followed.flow_hash[place] = flow_hash
            begin_flow(flow, followed.generation[p], time_ns, direction)
            flow.heads = 0
        has_head = False
        if choice.head_packets:
            # As the batcher counts heads where it sees all packets: a SYN begins them anew.
            if flags & (SYN | ACK) == SYN:
                flow.heads = 0
            has_head = flow.heads < choice.head_packets
            flow.heads += np.uint8(has_head)

        is_sent = (
            flow.packets < choice.packets
            or flags & (FIN | RST) != 0
            or flow.marks & ENDED != 0
            # Also where the clock was set back by less than what ends all flows.
            or abs(time_ns - flow.sent_ns) >= choice.sign_of_life_ns
        )
        while event < events and told_row[event] == row:
            out.event_row[event] = chosen
            is_sent = True
            event += 1
        if not is_sent:
            continue
        followed.watermark[p] = watermark
        flow.sent_ns = time_ns
        count_packet(flow, time_ns, flags, direction)
        out.row[chosen], out.has_head[chosen] = row, has_head
        chosen += 1
    out.event_row[event:] = chosen
    counts[_LEFT_OUT] += stop - start - chosen
    return chosen


@compiled
def _gather(
    columns: PacketColumns,
    words: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    chosen: _Chosen,
    rows: int,
    out: PacketColumns,
    out_words: tuple[NDArray[np.uint64], NDArray[np.uint64]],
) -> None:
    """Copy the rows chosen one behind the other; ``words`` are the addresses. A head not to be sent is empty."""
    for k in range(rows):
        row = chosen.row[k]
        out.time_ns[k], out.flow_hash[k] = columns.time_ns[row], columns.flow_hash[row]
        out.octets[k], out.header_octets[k] = columns.octets[row], columns.header_octets[row]
        out.tcp_window[k], out.tcp_flags[k] = columns.tcp_window[row], columns.tcp_flags[row]
        out.ttl[k], out.direction[k] = columns.ttl[row], columns.direction[row]
        out.port_a[k], out.port_b[k] = columns.port_a[row], columns.port_b[row]
        out.protocol[k], out.ip_version[k] = columns.protocol[row], columns.ip_version[row]
        for word in range(2):
            out_words[0][k, word], out_words[1][k, word] = words[0][row, word], words[1][row, word]
    if len(out.tcp_sequence):
        for k in range(rows):
            row = chosen.row[k]
            out.tcp_sequence[k] = columns.tcp_sequence[row]
            out.tcp_acknowledgment[k] = columns.tcp_acknowledgment[row]
    if len(out.flow_direction):
        for k in range(rows):
            out.flow_direction[k] = columns.flow_direction[chosen.row[k]]
    if len(out.head_length):
        for k in range(rows):
            row = chosen.row[k]
            octets = columns.head_length[row] if chosen.has_head[k] else np.uint16(0)
            out.head_length[k] = octets
            for i in range(octets):
                out.heads[k, i] = columns.heads[row, i]


@compiled
def _take(
    columns: PacketColumns,
    words: tuple[NDArray[np.uint64], NDArray[np.uint64]],
    start: int,
    stop: int,
    told_row: NDArray[np.int64],
    choice: _Choice,
    rules: FlowRules,
    followed: Followed,
    chosen: _Chosen,
    counts: NDArray[np.int64],
    out: PacketColumns,
    out_words: tuple[NDArray[np.uint64], NDArray[np.uint64]],
) -> int:
    """Choose and gather in one call, since handing the arrays over costs as much as a small block does."""
    rows = _choose(columns, start, stop, told_row, choice, rules, followed, chosen, counts)
    _gather(columns, words, chosen, rows, out, out_words)
    return rows  # type: ignore[no-any-return]


def _words(columns: PacketColumns) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return (
        np.ascontiguousarray(columns.address_a).view(np.uint64),
        np.ascontiguousarray(columns.address_b).view(np.uint64),
    )


class FirstPackets:
    """Chooses the packets of one probe that are sent. What compiles is compiled when it is made.

    Args:
        selection: which.
        partitions: how many partitions flows are split over: event time goes on in each for itself.
        extra: what the packets hold beyond the usual columns.
    """

    def __init__(self, selection: Selection, partitions: int, extra: Extra = NO_EXTRA) -> None:
        head_packets = extra.head_packets if extra.head_octets else 0
        self._choice = _Choice(selection.packets, selection.sign_of_life_ns, head_packets)
        self._rules, self._extra = selection.rules, extra
        self._followed = new_followed(selection.max_flows, partitions, (("sent_ns", "i8"), ("heads", "u1")))
        self._counts = np.zeros(2, np.int64)
        self._room(0)
        self.take(self._out, (0, 0), NOTHING_TOLD)

    @property
    def left_out(self) -> int:
        """Packets that were not chosen so far."""
        return int(self._counts[_LEFT_OUT])

    @property
    def flows_evicted(self) -> int:
        """Flows that were forgotten for want of room, though they went on."""
        return int(self._counts[_EVICTED])

    @property
    def state_bytes(self) -> int:
        """Memory of the flows followed, where every place was used once."""
        return self._followed.state_bytes

    def restart(self) -> None:
        """Forget all flows: what comes next is another stream."""
        self._followed.forget()

    def take(self, block: PacketColumns, rows: tuple[int, int], told: Told) -> tuple[PacketColumns, Told]:
        """Return, of some rows of a block, those to be sent, and what they told, by their rows.

        Args:
            block: the whole block.
            rows: first row, and the row after the last.
            told: what the whole block told; events of other rows come before the first or after the last.

        Returns:
            Columns that hold until the next call.
        """
        start, stop = rows
        if len(self._chosen.row) < stop - start:
            self._room(stop - start)
        chosen = self._chosen._replace(event_row=np.empty(len(told.row), np.int64))
        sent = _take(
            block, _words(block), start, stop, told.row, self._choice, self._rules, self._followed, chosen,
            self._counts, self._out, self._out_words,
        )  # fmt: skip
        return self._out.head(sent), told._replace(row=chosen.event_row)

    def _room(self, rows: int) -> None:
        nothing = np.empty(0, np.int64)
        self._chosen = _Chosen(np.empty(rows, np.int64), np.empty(rows, np.bool_), nothing)
        self._out = allocate(rows, self._extra)
        self._out_words = _words(self._out)
