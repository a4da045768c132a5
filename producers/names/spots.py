"""Which packets may tell a name: a look at a payload's first bytes, compiled into the decoder.

The decoder notes such packets here; ``producers.names.finder`` reads them afterwards. A flow that has told its
name, or is known not to, is not looked at again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big
from schemas.compiled import compiled
from schemas.flow_key import TCP, UDP

NOTHING, TLS, QUIC, HTTP, DNS, DNS_OVER_TCP, REST, ANEW = 0, 1, 2, 3, 4, 5, 6, 8
"""What a payload looks like; REST is any payload of a flow whose name is waited for. ANEW is added where the packet
opens a connection: what was known of its ports' former one counts no more."""

_DNS_PORT = 53
_SYN_ACK, _SYN = 0x12, 0x02
_GET, _POST, _HEAD, _PUT, _DELE, _OPTI, _PATC = (
    int.from_bytes(word, "big") for word in (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC")
)
WATCH = 32
"""Packets noted in the same direction after one that tells the beginning of a name."""
_FROM_B = 128
_FLOWS = 1 << 16
_FLOW_MASK = np.uint64(_FLOWS - 1)
_3, _7 = np.uint64(3), np.uint64(7)


class Spots(NamedTuple):
    """The packets noted since the list was last emptied, and what is known of flows."""

    noted: NDArray[np.int64]
    """(1,) how many."""
    row: NDArray[np.int64]
    """Row of the packet's columns; this and the next four have room for all rows of a block."""
    kind: NDArray[np.uint8]
    transport: NDArray[np.int64]
    """Index of the transport header in the buffer of frames."""
    payload: NDArray[np.int64]
    """Index of the payload."""
    stop: NDArray[np.int64]
    """Index after the last captured byte."""
    settled: NDArray[np.uint64]
    """(65536,) by the last bits of the flow hash: the hash of a flow that needs no look any more."""
    watched: NDArray[np.uint8]
    """(65536,) by the same bits: how many packets more are noted whatever they look like, since what a flow tells
    goes on in them; and, in the highest bit, the direction in which it tells it."""
    watched_flow: NDArray[np.uint64]
    """(65536,) which flow that is."""
    watching: NDArray[np.uint8]
    """(8192,) a bit for each place of ``watched`` that is not 0: it is looked at for each packet, and so small stays
    in the cache."""
    waiting: NDArray[np.uint16]
    """(65536,) by the same bits: of how many flows the finder waits for more."""


def allocate_spots(rows: int) -> Spots:
    """Return an empty list with room for ``rows`` packets."""
    return Spots(
        np.zeros(1, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.uint8),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(_FLOWS, np.uint64),
        np.zeros(_FLOWS, np.uint8),
        np.zeros(_FLOWS, np.uint64),
        np.zeros(_FLOWS // 8, np.uint8),
        np.zeros(_FLOWS, np.uint16),
    )


def longer(spots: Spots, rows: int) -> Spots:
    """Return an empty list with room for ``rows`` packets that knows of flows what another does."""
    fresh = allocate_spots(rows)
    return Spots(*fresh[:6], *spots[6:])


def place_of(flow_hash: int) -> int:
    """Return a flow's place in the arrays by flow."""
    return flow_hash & (_FLOWS - 1)


@compiled(forceinline=True)
def kind_of(raw: NDArray[np.uint8], at: int, stop: int, protocol: int, ports: int) -> int:
    """Return what the payload in ``raw[at:stop]`` looks like.

    ``ports`` are source port << 16 | destination port.
    """
    if protocol == TCP:
        if stop - at < 1:
            return NOTHING
        if ports >> 16 == _DNS_PORT:
            return DNS_OVER_TCP
        first = u8(raw, at)
        if first == 22:
            # A ClientHello, or too short a piece to tell.
            return TLS if stop - at < 6 or (u8(raw, at + 1) == 3 and u8(raw, at + 5) == 1) else NOTHING
        if stop - at >= 4 and 68 <= first <= 80:
            word = u32_big(raw, at)
            if word in (_GET, _POST, _HEAD, _PUT, _DELE, _OPTI, _PATC):
                return HTTP
        return NOTHING
    if protocol == UDP:
        if ports >> 16 == _DNS_PORT:
            # An answer, and one with answers in it.
            is_answer = stop - at > 12 and u8(raw, at + 2) & 0x80 and u16_big(raw, at + 6)
            return DNS if is_answer else NOTHING
        if stop - at > 24 and u8(raw, at) & 0xC0 == 0xC0:
            kind, version = u8(raw, at) & 0x30, u32_big(raw, at + 1)
            if (version == 1 and kind == 0) or (version == 0x6B3343CF and kind == 0x10):
                return QUIC
    return NOTHING


@compiled
def goes_on(raw: NDArray[np.uint8], at: int, stop: int, kind: int) -> bool:
    """Return whether what the payload in ``raw[at:stop]`` begins to tell seems to go on in later packets."""
    if kind == TLS:
        if stop - at < 9:
            return True
        return stop - at < 9 + ((u8(raw, at + 6) << 16) | u16_big(raw, at + 7))
    return kind == HTTP and u32_big(raw, stop - 4) != 0x0D0A0D0A


@compiled(forceinline=True)
def may_be_watched(watching: NDArray[np.uint8], flow_hash: np.uint64) -> bool:
    """Return whether a flow is watched, or another of its place."""
    place = flow_hash & _FLOW_MASK
    return bool((watching[place >> _3] >> np.uint8(place & _7)) & np.uint8(1))


@compiled(forceinline=True)
def is_watched(spots: Spots, flow_hash: np.uint64, direction: int) -> bool:
    """Return whether any packet of a flow's direction is to be noted; ask where it ``may_be_watched``."""
    place = flow_hash & _FLOW_MASK
    return bool(spots.watched_flow[place] == flow_hash and spots.watched[place] >> 7 == direction)


@compiled
def _set_watched(spots: Spots, flow_hash: np.uint64, packets: int, direction: int) -> None:
    place = np.uint64(flow_hash) & _FLOW_MASK
    bit = np.uint8(1) << np.uint8(place & _7)
    if packets:
        spots.watched[place] = packets | (_FROM_B if direction else 0)
        spots.watched_flow[place] = flow_hash
        spots.watching[place >> _3] |= bit
    else:
        spots.watched[place] = 0
        spots.watching[place >> _3] &= ~bit


@compiled
def note(
    spots: Spots,
    raw: NDArray[np.uint8],
    kind: int,
    row: int,
    flow_hash: np.uint64,
    direction: int,
    transport: int,
    payload: int,
    stop: int,
    is_whole: bool,
) -> None:
    """Note a packet for the finder, unless its flow needs no look any more.

    ``is_whole``: the capture has all of the packet; after one that it cut, nothing can be put together.
    """
    place, looks = flow_hash & _FLOW_MASK, kind & ~ANEW
    if kind & ANEW:
        if spots.settled[place] == flow_hash:
            spots.settled[place] = 0
    elif looks != DNS and looks != DNS_OVER_TCP and spots.settled[place] == flow_hash:
        return
    if looks == REST:
        _set_watched(spots, flow_hash, (spots.watched[place] & ~_FROM_B) - 1, direction)
    elif looks in (TLS, HTTP) and is_whole and goes_on(raw, payload, stop, looks):
        _set_watched(spots, flow_hash, WATCH, direction)
    n = spots.noted[0]
    spots.noted[0] = n + 1
    spots.row[n], spots.kind[n] = row, kind
    spots.transport[n], spots.payload[n], spots.stop[n] = transport, payload, stop


@compiled(forceinline=True)
def begins_anew(protocol: int, flags: int) -> bool:
    """Return whether a packet asks for a new connection: its ports' former one tells nothing about it."""
    return protocol == TCP and flags & _SYN_ACK == _SYN


def watch(spots: Spots, flow_hash: int, direction: int) -> None:
    """Have a flow's next packets in a direction noted, whatever they look like."""
    _set_watched(spots, np.uint64(flow_hash), WATCH, direction)


def forget_watch(spots: Spots, flow_hash: int) -> None:
    """Have a flow's packets noted no more for what was waited for."""
    place = place_of(flow_hash)
    if int(spots.watched_flow[place]) == flow_hash:
        _set_watched(spots, np.uint64(flow_hash), 0, 0)
