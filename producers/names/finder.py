"""Finds names in the packets that the decoder noted: TCP streams and QUIC hellos are put together, within bounds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.names.dns import DnsAnswer, parse_answer
from producers.names.http import MAX_REQUEST, name_in_request
from producers.names.spots import (
    DNS,
    DNS_OVER_TCP,
    HTTP,
    QUIC,
    REST,
    TLS,
    WATCH,
    Spots,
    allocate_spots,
    place_of,
)
from producers.names.text import Verdict
from producers.names.tls import MAX_HELLO, name_in_stream
from schemas.packets import NameSource

MAX_STREAMS = 4096
"""Flows that are waited for at a time; beyond, the one waited for longest is given up."""
_MAX_SEGMENTS = 64
_MAX_DNS = 2 + 65_535
_MAX_PACKETS = 24
"""Packets of a flow in which its name is looked for."""


class Found(NamedTuple):
    """A name that a packet completed."""

    row: int
    name: str
    source: NameSource


class Answered(NamedTuple):
    """A DNS answer that a packet completed."""

    row: int
    client: bytes
    """(16) address of whoever asked."""
    answer: DnsAnswer


Event = Found | Answered


class _Stream:
    """The first bytes that one side of a TCP connection sent, put together; bounded in size."""

    def __init__(self, sequence: int, limit: int) -> None:
        self.next_sequence = sequence
        self.data = b""
        self._limit = limit
        self._later: dict[int, bytes] = {}

    def add(self, sequence: int, payload: bytes) -> bool:
        """Take a segment in; return False where the stream cannot be followed any more."""
        ahead = (sequence - self.next_sequence) & 0xFFFFFFFF
        ahead -= (ahead & 0x80000000) << 1  # sequence numbers wrap
        if not -self._limit <= ahead <= self._limit or len(self._later) == _MAX_SEGMENTS:
            return False
        if len(payload) > len(self._later.get(ahead + len(self.data), b"")):
            self._later[ahead + len(self.data)] = payload
        for at in sorted(self._later):
            if at > len(self.data):
                break
            new = self._later.pop(at)[len(self.data) - at :]
            self.data += new
            self.next_sequence = (self.next_sequence + len(new)) & 0xFFFFFFFF
        return len(self.data) <= self._limit

    def drop(self, octets: int) -> None:
        """Forget the first bytes."""
        self.data = self.data[octets:]
        self._later = {at - octets: part for at, part in self._later.items()}


class _QuicFlow:
    """A QUIC flow whose hello is waited for."""

    def __init__(self) -> None:
        from producers.names.quic import QuicHello  # loads the cryptography package: only where QUIC is met

        self.hello = QuicHello()


class _Waiting(NamedTuple):
    kind: int
    flow: _Stream | _QuicFlow
    packets: list[int]
    """(1) how many packets were looked at."""


_READERS: dict[int, tuple[Callable[[bytes], str | Verdict], NameSource, int]] = {
    TLS: (name_in_stream, NameSource.TLS_SNI, MAX_HELLO + 1024),
    HTTP: (name_in_request, NameSource.HTTP_HOST, MAX_REQUEST),
}

_Key = tuple[int, int]
"""Flow hash and direction."""


class NameFinder:
    """Reads the names out of the packets of one probe; one for all its captures, one after the other."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Names found by where, answers, and flows given up."""
        self._spots = allocate_spots(1)
        self._waiting: OrderedDict[_Key, _Waiting] = OrderedDict()
        self._events: list[Event] = []
        self._settled_by: dict[_Key, int] = {}
        """Sequence number of the packet by which a flow began to be followed, within one ``read``."""

    def spots(self, rows: int) -> Spots:
        """Return the list for a decoder whose blocks have that many rows."""
        fresh = allocate_spots(rows, self._spots.settled)
        self._spots = fresh._replace(watched=self._spots.watched)
        return self._spots

    def take(self) -> list[Event]:
        """Return what was found in the block just decoded, by row, and forget it."""
        events, self._events = self._events, []
        return events

    def forget(self) -> None:
        """Forget all flows, as between two runs of the same packets."""
        self._waiting.clear()
        self._spots.settled[:] = 0
        self._spots.watched[:] = 0

    def read(self, raw: NDArray[np.uint8], columns: PacketColumns) -> None:
        """Read the packets noted while frames in ``raw`` were decoded into ``columns``, and empty the list."""
        spots = self._spots
        for n in range(int(spots.noted[0])):
            row, kind = int(spots.row[n]), int(spots.kind[n])
            if (
                kind == REST
                and (int(columns.flow_hash[row]), int(columns.direction[row])) not in self._waiting
            ):
                continue
            payload = raw[int(spots.payload[n]) : int(spots.stop[n])].tobytes()
            if kind == DNS:
                self._answer(columns, row, payload)
                continue
            key = int(columns.flow_hash[row]), int(columns.direction[row])
            at = int(spots.transport[n])
            sequence = int.from_bytes(raw[at + 4 : at + 8].tobytes(), "big")
            # A SYN takes a number of its own, before the data that may come with it (RFC 7413).
            sequence += int(columns.tcp_flags[row]) >> 1 & 1
            is_settled = int(spots.settled[place_of(key[0])]) == key[0] and kind != DNS_OVER_TCP
            # Settled since the decoder noted this packet; another hello is one of another connection.
            if is_settled and (kind != TLS or self._settled_by.get(key, sequence) == sequence):
                continue
            self._follow(columns, row, kind, key, sequence & 0xFFFFFFFF, payload)
        self._settled_by.clear()
        spots.noted[0] = 0

    def _follow(
        self, columns: PacketColumns, row: int, kind: int, key: _Key, sequence: int, payload: bytes
    ) -> None:
        """Add a packet to its flow, which may begin with it, and see what the flow tells now."""
        waiting = self._waiting.get(key)
        if waiting is None:
            # A QUIC server's Initial comes after its client's.
            if kind == REST or (kind == QUIC and (key[0], 1 - key[1]) in self._waiting):
                return
            waiting = self._begin(kind, key, sequence)
            self._settled_by[key] = sequence
        waiting.packets[0] += 1
        if waiting.kind == DNS_OVER_TCP:
            self._dns_stream(columns, row, key, waiting, sequence, payload)
            return
        name, source = self._look(waiting, sequence, payload)
        cut = int(columns.octets[row]) - int(columns.header_octets[row]) > len(payload) and kind != QUIC
        if name is Verdict.MORE and waiting.packets[0] < _MAX_PACKETS and not cut:
            if kind != QUIC:
                self._spots.watched[place_of(key[0])] = WATCH
            return
        self._end(key, settled=True)
        if isinstance(name, str):
            self.counts[source.text] += 1
            self._events.append(Found(row, name, source))
        else:
            self.counts["given_up"] += 1

    @staticmethod
    def _look(waiting: _Waiting, sequence: int, payload: bytes) -> tuple[str | Verdict, NameSource]:
        if isinstance(waiting.flow, _QuicFlow):
            return waiting.flow.hello.add(payload), NameSource.QUIC_SNI
        reader, source, _ = _READERS[waiting.kind]
        if not waiting.flow.add(sequence, payload):
            return Verdict.NOTHING, source
        return reader(waiting.flow.data), source

    def _begin(self, kind: int, key: _Key, sequence: int) -> _Waiting:
        if len(self._waiting) == MAX_STREAMS:
            self.counts["given_up"] += 1
            self._end(next(iter(self._waiting)), settled=False)
        if kind == QUIC:
            flow: _Stream | _QuicFlow = _QuicFlow()
        else:
            flow = _Stream(sequence, _MAX_DNS if kind == DNS_OVER_TCP else _READERS[kind][2])
        waiting = self._waiting[key] = _Waiting(kind, flow, [0])
        return waiting

    def _end(self, key: _Key, *, settled: bool) -> None:
        del self._waiting[key]
        place = place_of(key[0])
        self._spots.watched[place] = 0
        if settled:
            self._spots.settled[place] = key[0]

    def _dns_stream(
        self, columns: PacketColumns, row: int, key: _Key, waiting: _Waiting, sequence: int, payload: bytes
    ) -> None:
        """Take the messages out of a DNS server's side of a TCP connection (RFC 1035, 4.2.2)."""
        stream = waiting.flow
        assert isinstance(stream, _Stream)  # noqa: S101
        if not stream.add(sequence, payload):
            self.counts["given_up"] += 1
            self._end(key, settled=False)
            return
        while len(stream.data) >= 2:
            octets = int.from_bytes(stream.data[:2], "big")
            if len(stream.data) < 2 + octets:
                return
            self._answer(columns, row, stream.data[2 : 2 + octets])
            stream.drop(2 + octets)

    def _answer(self, columns: PacketColumns, row: int, message: bytes) -> None:
        answer = parse_answer(message)
        if answer is None:
            return
        self.counts["dns_answers"] += 1
        # The answer goes to the client: to endpoint b where the packet goes from a to b.
        receiver = columns.address_a if columns.direction[row] else columns.address_b
        self._events.append(Answered(row, receiver[row].tobytes(), answer))
