"""Names that lie whole in one packet, as most do: compiled code reads them, and leaves the others to the finder."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.names.dns import Records, allocate_records, tell_answer
from producers.names.http import http_host
from producers.names.initial import NO_USE, InitialRoom, allocate_initial_room, quic_name
from producers.names.spots import (
    ANEW,
    DNS,
    DNS_OVER_TCP,
    NOTHING,
    QUIC,
    REST,
    TLS,
    Spots,
    place_of,
)
from producers.names.text import MORE, NAME_ROOM
from producers.names.tls import HELLO_ROOM, tls_name
from producers.names.told import Told, is_full, tell
from schemas.packets import NameSource

GIVEN_UP, COUNTS = 0, 5
"""Index of flows given up, and the number of counts: the others stand at their NameSource."""
_DNS, _TLS, _QUIC, _HTTP = (
    int(source) for source in (NameSource.DNS, NameSource.TLS_SNI, NameSource.QUIC_SNI, NameSource.HTTP_HOST)
)
_place = njit(cache=True, nogil=True)(place_of)


class Room(NamedTuple):
    """Memory to work in."""

    hello: NDArray[np.uint8]
    name: NDArray[np.uint8]
    records: Records
    initial: InitialRoom


class AboutPackets(NamedTuple):
    """What is asked of packets: a few of the columns, since each array costs a call some time."""

    flow_hash: NDArray[np.uint64]
    direction: NDArray[np.uint8]
    address_a: NDArray[np.uint64]
    """As words."""
    address_b: NDArray[np.uint64]
    octets: NDArray[np.uint32]
    header_octets: NDArray[np.uint16]


def about(columns: PacketColumns) -> AboutPackets:
    """Return what is asked of packets; addresses in the columns are words."""
    return AboutPackets(*(getattr(columns, name) for name in AboutPackets._fields))


def allocate_room() -> Room:
    """Return memory to work in."""
    return Room(
        np.zeros(HELLO_ROOM, np.uint8),
        np.zeros(NAME_ROOM, np.uint8),
        allocate_records(),
        allocate_initial_room(),
    )


@njit(cache=True, nogil=True)
def read_whole(
    spots: Spots,
    n: int,
    is_free: bool,
    raw: NDArray[np.uint8],
    columns: AboutPackets,
    told: Told,
    counts: NDArray[np.int64],
    room: Room,
) -> int:
    """Read the packets noted from ``n`` on, up to one that takes more than itself to read; return its number.

    Args:
        spots: the packets noted.
        n: the one to begin with.
        is_free: the finder waits for nothing more of its flow.
        raw: buffer that they lie in.
        columns: of the packets.
        told: takes the events. Where it is full, too, the number of the next packet is returned.
        counts: (COUNTS,) flows given up, and names and answers by source.
        room: memory to work in.
    """
    settled, waiting = spots.settled, spots.waiting
    for at in range(n, spots.noted[0]):
        row, kind = spots.row[at], np.int64(spots.kind[at])
        flow = columns.flow_hash[row]
        place = _place(flow)
        waits = waiting[place] > 0 and not (is_free and at == n)
        if kind & ANEW:
            if waits:
                return at
            if settled[place] == flow:
                settled[place] = 0
            kind &= ~ANEW
        if kind == NOTHING or (kind == REST and not waits):
            continue
        if kind == DNS_OVER_TCP or is_full(told):
            return at
        payload, stop = spots.payload[at], spots.stop[at]
        if kind == DNS:
            # The answer goes to the client: to endpoint b where the packet goes from a to b.
            client = columns.address_a[row] if columns.direction[row] else columns.address_b[row]
            counts[_DNS] += tell_answer(told, raw, payload, stop, row, client, room.records, room.name)
            continue
        if settled[place] == flow:
            continue
        if waits:
            return at
        if kind == QUIC:
            source, length = _QUIC, quic_name(raw, payload, stop, room.initial, room.name)
            if length == MORE:
                return at
            if length == NO_USE:
                continue
        elif kind == TLS:
            source, length = _TLS, tls_name(raw, payload, stop, room.hello, room.name)
        else:
            source, length = _HTTP, http_host(raw, payload, stop, room.name)
        if length == MORE and columns.octets[row] - columns.header_octets[row] <= stop - payload:
            return at
        settled[place] = flow
        if length > 0:
            tell(told, row, source, room.name, length)
            counts[source] += 1
        else:
            counts[GIVEN_UP] += 1
    return int(spots.noted[0])
