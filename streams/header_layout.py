"""Where nPrint's headers lie in a row of bits, and how a packet's head is laid out so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.packets import Extra
from streams.feature import FeatureColumn, Packet, StateFields

HEADERS = (("ipv4", 60), ("ipv6", 40), ("tcp", 60), ("udp", 8), ("icmp", 8))
"""Name and octets of each header, as large as it can be."""
BYTES = sum(octets for _, octets in HEADERS)
MOST_PACKETS = 8
_IP4, _IP6, _TCP, _UDP, _ICMP = 0, 1, 2, 3, 4
_SIZES = np.array([octets for _, octets in HEADERS])
_STARTS = np.cumsum(_SIZES) - _SIZES
# Octets that tell hosts and connections apart, by header: from and to.
_MASKS = np.array(
    [
        (_IP4, 4, 6),  # identification
        (_IP4, 10, 20),  # checksum, addresses
        (_IP6, 1, 4),  # flow label, and the lower half of the traffic class with it
        (_IP6, 8, 40),  # addresses
        (_TCP, 0, 12),  # ports, sequence and acknowledgment numbers
        (_TCP, 16, 18),  # checksum
        (_UDP, 0, 4),  # ports
        (_UDP, 6, 8),  # checksum
        (_ICMP, 2, 8),  # checksum, identifier, sequence number
    ]
)


def head_needs(depth: int) -> Extra:
    """Return what probes must send for the headers of the first packets."""
    return Extra(head_packets=min(depth, MOST_PACKETS), head_octets=120)


def header_state(depth: int) -> StateFields:
    """Return the state that ``keep_headers`` writes and ``emit_headers`` reads."""
    packets = min(depth, MOST_PACKETS)
    return [("seen", "u1"), ("octets", "u1", (packets, BYTES)), ("present", "u1", (packets, len(HEADERS)))]


def header_columns(depth: int, prefix: str = "") -> list[FeatureColumn]:
    """Return a column for each bit of each header of the first packets."""
    return [
        FeatureColumn(
            f"{prefix}{name}_{bit}_{packet}",
            "1",
            f"bit {bit} of the {name} header, packet {packet}, -1: none",
        )
        for packet in range(1, min(depth, MOST_PACKETS) + 1)
        for name, octets in HEADERS
        for bit in range(8 * octets)
    ]


@compiled
def keep_headers(
    state: Any, packet: Packet, heads: NDArray[np.uint8], start: int, stop: int, masked: bool
) -> None:
    """Take in ``heads[start:stop]``, the head of a packet, if it is the next of the first ones."""
    if packet.depth != state.seen + 1 or state.seen >= len(state.octets):
        return
    copy_headers(state.octets[state.seen], state.present[state.seen], packet, heads, start, stop, masked)
    state.seen += 1


@compiled
def emit_headers(state: Any, out: NDArray[np.float32], at: int) -> None:
    """Write the bits of all packets kept to ``out[at:]``."""
    for i in range(len(state.octets)):
        at = emit_bits(state.octets[i], state.present[i], out, at)


@compiled
def copy_headers(
    octets: NDArray[np.uint8],
    present: NDArray[np.uint8],
    packet: Packet,
    heads: NDArray[np.uint8],
    start: int,
    stop: int,
    masked: bool,
) -> None:
    """Write a packet's headers, (BYTES,), and how many octets of each there are, (len(HEADERS),)."""
    if stop - start < 20:
        return
    ip = _IP4 if heads[start] >> 4 == 4 else _IP6
    ip_octets = (heads[start] & 15) * 4 if ip == _IP4 else 40
    protocol = np.int64(heads[start + 9]) if ip == _IP4 else np.int64(heads[start + 6])
    _copy(octets, present, ip, heads, start, min(stop, start + ip_octets))
    transport = _TCP if packet.protocol == 6 else _UDP if packet.protocol == 17 else _ICMP
    # IPv6 extension headers stand between: then the transport header is left out.
    if protocol == packet.protocol and protocol in (1, 6, 17, 58):
        # What the decoder counted as headers, less the IP header.
        length = packet.octets - packet.payload_octets - ip_octets
        first = start + ip_octets
        _copy(octets, present, transport, heads, first, min(stop, first + length))
    if masked:
        for i in range(len(_MASKS)):
            header, begin, end = _MASKS[i]
            for at in range(begin, min(end, np.int64(present[header]))):
                octets[_STARTS[header] + at] = 0


@compiled
def _copy(
    octets: NDArray[np.uint8],
    present: NDArray[np.uint8],
    header: int,
    heads: NDArray[np.uint8],
    first: int,
    last: int,
) -> None:
    length = max(0, min(last - first, _SIZES[header]))
    for i in range(length):
        octets[_STARTS[header] + i] = heads[first + i]
    present[header] = length


@compiled
def emit_bits(
    octets: NDArray[np.uint8], present: NDArray[np.uint8], out: NDArray[np.float32], at: int
) -> int:
    """Write a packet's bits to ``out[at:]``; return the place behind them."""
    for header in range(len(_SIZES)):
        for i in range(_SIZES[header]):
            octet = octets[_STARTS[header] + i]
            for bit in range(8):
                out[at] = (octet >> (7 - bit)) & 1 if i < present[header] else -1
                at += 1
    return at
