"""Finds names in the packets that the decoder noted: TCP streams and QUIC hellos are put together, within bounds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.names.dns import tell_answer
from producers.names.http import MAX_REQUEST, http_host
from producers.names.spots import (
    ANEW,
    DNS_OVER_TCP,
    HTTP,
    QUIC,
    REST,
    TLS,
    Spots,
    allocate_spots,
    forget_watch,
    longer,
    place_of,
    watch,
)
from producers.names.text import MORE, NOTHING, Verdict
from producers.names.tls import HELLO_ROOM, tls_name
from producers.names.told import EVENTS, Told, allocate_told, is_full, tell, with_room
from producers.names.whole import COUNTS, GIVEN_UP, about, allocate_room, read_whole
from producers.privacy.privacy import Privacy
from schemas.packets import NameSource

MAX_STREAMS = 4096
"""Flows that are waited for at a time; beyond, the one waited for longest is given up."""
_MAX_SEGMENTS = 64
_MAX_DNS = 2 + 65_535
_MAX_PACKETS = 24
"""Packets of a flow in which its name is looked for."""


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


_LIMITS = {TLS: HELLO_ROOM, HTTP: MAX_REQUEST, DNS_OVER_TCP: _MAX_DNS}
"""Octets of a stream that are kept."""
_SOURCES = {TLS: NameSource.TLS_SNI, HTTP: NameSource.HTTP_HOST, QUIC: NameSource.QUIC_SNI}

_Key = tuple[int, int]
"""Flow hash and direction."""


class NameFinder:
    """Reads the names out of the packets of one probe; one for all its captures, one after the other.

    Args:
        privacy: hides addresses and names in what is told. None: nothing is hidden.
    """

    def __init__(self, privacy: Privacy | None = None) -> None:
        self._privacy = privacy
        self._spots = allocate_spots(1)
        self._waiting: OrderedDict[_Key, _Waiting] = OrderedDict()
        self._told = allocate_told()
        self._counts = np.zeros(COUNTS, np.int64)
        self._room = allocate_room()

    @property
    def counts(self) -> Counter[str]:
        """Return the names found by where, DNS answers, and flows given up."""
        named = {source.text: int(self._counts[source]) for source in NameSource if source != NameSource.DNS}
        others = {"dns_answers": int(self._counts[NameSource.DNS]), "given_up": int(self._counts[GIVEN_UP])}
        return +Counter(named | others)

    def spots(self, rows: int) -> Spots:
        """Return the list for a decoder whose blocks have that many rows."""
        self._spots = longer(self._spots, rows)
        return self._spots

    def take(self) -> Told:
        """Return what was found in the block just decoded, by row, and forget it: it holds until the next ``read``."""
        told = self._told.head(int(self._told.filled[EVENTS]))
        self._told.filled[:] = 0
        return told if self._privacy is None else self._privacy.names(told)

    def forget(self) -> None:
        """Forget all flows, as between two runs of the same packets."""
        self._waiting.clear()
        for array in self._spots[6:]:
            array[:] = 0

    def read(self, raw: NDArray[np.uint8], columns: PacketColumns) -> None:
        """Read the packets noted while frames in ``raw`` were decoded into ``columns``, and empty the list.

        Addresses in the columns are words (``producers.decoder.kernel.writable``).
        """
        spots, n, is_free, packets = self._spots, 0, False, about(columns)
        before = int(self._told.filled[EVENTS])
        while True:
            n = read_whole(spots, n, is_free, raw, packets, self._told, self._counts, self._room)
            if n == spots.noted[0]:
                break
            if is_full(self._told):
                self._told = with_room(self._told)
                continue
            is_free = not self._look_at(raw, columns, n, is_free)
            n += not is_free
        spots.noted[0] = 0
        if self._privacy is not None:
            self._privacy.answers(self._told, before, columns)

    def _look_at(self, raw: NDArray[np.uint8], columns: PacketColumns, n: int, is_free: bool) -> bool:
        """Read a packet that goes with others; return False where it turns out that it goes with none."""
        spots = self._spots
        row, kind = int(spots.row[n]), int(spots.kind[n])
        key = int(columns.flow_hash[row]), int(columns.direction[row])
        other = key[0], 1 - key[1]
        if kind & ANEW and not is_free:
            for begun in (key, other):
                if begun in self._waiting:
                    self._give_up(begun, settled=False)
            return False
        kind &= ~ANEW
        if key not in self._waiting:
            if kind == REST or (kind == QUIC and other in self._waiting):
                return True  # of another flow in the same place; a QUIC server's Initial, after its client's
            if kind != DNS_OVER_TCP and spots.waiting[place_of(key[0])] and not is_free:
                return False
        return self._follow(raw, columns, n, key, kind)

    def _follow(self, raw: NDArray[np.uint8], columns: PacketColumns, n: int, key: _Key, kind: int) -> bool:
        """Add a packet to its flow, which may begin with it, and see what the flow tells now; return True."""
        spots, row = self._spots, int(self._spots.row[n])
        payload = raw[int(spots.payload[n]) : int(spots.stop[n])].tobytes()
        at = int(spots.transport[n])
        # A SYN takes a number of its own, before the data that may come with it (RFC 7413).
        sequence = int.from_bytes(raw[at + 4 : at + 8].tobytes(), "big") + (
            int(columns.tcp_flags[row]) >> 1 & 1
        )
        sequence &= 0xFFFFFFFF
        waiting = self._waiting.get(key) or self._begin(kind, key, sequence)
        waiting.packets[0] += 1
        if waiting.kind == DNS_OVER_TCP:
            self._dns_stream(columns, row, key, waiting, sequence, payload)
            return True
        length = self._look(waiting, sequence, payload)
        is_cut = int(columns.octets[row]) - int(columns.header_octets[row]) > len(payload) and kind != QUIC
        if length == MORE and waiting.packets[0] < _MAX_PACKETS and not is_cut:
            if kind != QUIC:
                watch(spots, *key)
        elif length > 0:
            source = _SOURCES[waiting.kind]
            self._end(key, settled=True)
            self._counts[source] += 1
            tell(self._told, row, int(source), self._room.name, length)
        else:
            self._give_up(key, settled=True)
        return True

    def _look(self, waiting: _Waiting, sequence: int, payload: bytes) -> int:
        """Return the length of the name, which lies in the room for it then, MORE or NOTHING."""
        if isinstance(waiting.flow, _QuicFlow):
            found = waiting.flow.hello.add(payload)
            if isinstance(found, Verdict):
                return MORE if found is Verdict.MORE else NOTHING
            self._room.name[: len(found)] = np.frombuffer(found.encode("ascii"), np.uint8)
            return len(found)
        if not waiting.flow.add(sequence, payload):
            return NOTHING
        data = np.frombuffer(waiting.flow.data, np.uint8)
        if waiting.kind == TLS:
            return tls_name(data, 0, len(data), self._room.hello, self._room.name)
        return http_host(data, 0, len(data), self._room.name)

    def _begin(self, kind: int, key: _Key, sequence: int) -> _Waiting:
        if len(self._waiting) == MAX_STREAMS:
            self._give_up(next(iter(self._waiting)), settled=False)
        flow = _QuicFlow() if kind == QUIC else _Stream(sequence, _LIMITS[kind])
        waiting = self._waiting[key] = _Waiting(kind, flow, [0])
        self._spots.waiting[place_of(key[0])] += 1
        return waiting

    def _end(self, key: _Key, *, settled: bool) -> None:
        del self._waiting[key]
        place = place_of(key[0])
        self._spots.waiting[place] -= 1
        forget_watch(self._spots, key[0])
        if settled:
            self._spots.settled[place] = key[0]

    def _give_up(self, key: _Key, *, settled: bool) -> None:
        self._counts[GIVEN_UP] += 1
        self._end(key, settled=settled)

    def _dns_stream(
        self, columns: PacketColumns, row: int, key: _Key, waiting: _Waiting, sequence: int, payload: bytes
    ) -> None:
        """Take the messages out of a DNS server's side of a TCP connection (RFC 1035, 4.2.2)."""
        stream = waiting.flow
        assert isinstance(stream, _Stream)  # noqa: S101
        if not stream.add(sequence, payload):
            self._give_up(key, settled=False)
            return
        client = (columns.address_a if columns.direction[row] else columns.address_b)[row]
        while len(stream.data) >= 2:
            octets = int.from_bytes(stream.data[:2], "big")
            if len(stream.data) < 2 + octets:
                return
            self._told = with_room(self._told)
            data, room = np.frombuffer(stream.data, np.uint8), self._room
            self._counts[NameSource.DNS] += tell_answer(
                self._told, data, 2, 2 + octets, row, client, room.records, room.name
            )
            stream.drop(2 + octets)
