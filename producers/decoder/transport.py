"""Transport headers: ports (for ICMP what Community ID puts there) and header lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big
from schemas.compiled import compiled
from schemas.flow_key import ICMP, ICMP4_COUNTERPARTS, ICMP6, ICMP6_COUNTERPARTS, SCTP, TCP, UDP

# What the five-tuple of a protocol holds besides addresses: nothing, ports, or an ICMP type and code.
_NOTHING, _PORTS, _ICMP = 0, 1, 2
_HOLDS = np.zeros(256, np.uint8)
_HOLDS[[TCP, UDP, SCTP]] = _PORTS
_HOLDS[[ICMP, ICMP6]] = _ICMP
_HEADER_OCTETS = np.zeros(256, np.uint8)
_HEADER_OCTETS[[TCP, UDP, SCTP, ICMP, ICMP6]] = (20, 8, 12, 8, 8)
# The ICMP type that answers a type, or -1; ICMPv6 in the second half.
_ANSWERS = np.concatenate((ICMP4_COUNTERPARTS, ICMP6_COUNTERPARTS))


@compiled(forceinline=True)
def has_ports(protocol: int) -> bool:
    """Return whether the five-tuple of this protocol has ports, or stand-ins for them."""
    return _HOLDS[np.uint64(protocol)] != _NOTHING


@compiled(forceinline=True)
def _answer(kind: int, protocol: int) -> np.int64:
    return np.int64(_ANSWERS[np.uint64(kind + (256 if protocol == ICMP6 else 0))])


@compiled(forceinline=True)
def ports_at(raw: NDArray[np.uint8], at: int, end: int, protocol: int) -> int:
    """Return source port << 16 | destination port of a transport header, or -1 where the bytes end before."""
    holds = _HOLDS[np.uint64(protocol)]
    if holds == _PORTS:
        return u32_big(raw, at) if end - at >= 4 else -1
    if holds == _NOTHING:
        return 0
    if end - at < 2:
        return -1
    kind = u8(raw, at)
    answer = _answer(kind, protocol)
    return (kind << 16) | (answer if answer >= 0 else u8(raw, at + 1))


@compiled(forceinline=True)
def is_reversed(order: int, ports: int, protocol: int) -> bool:
    """Return whether a packet goes from the canonically second endpoint to the first.

    An ICMP message that no other type answers keeps its order.

    Args:
        order: positive where the source address is the larger one, 0 where both are equal.
        ports: source port << 16 | destination port.
        protocol: IANA protocol number.
    """
    source_port = ports >> 16
    if order < 0 or (order == 0 and source_port <= ports & 0xFFFF):
        return False
    return _HOLDS[np.uint64(protocol)] != _ICMP or _answer(source_port & 0xFF, protocol) >= 0


@compiled(forceinline=True)
def transport_fields(raw: NDArray[np.uint8], at: int, end: int, protocol: int) -> tuple[np.int64, int, int]:
    """Return the octets of a transport header, and TCP's flags and window.

    Where the capture cut the header short, the octets are the least it can have, and flags or window 0.
    """
    octets, flags, window = np.int64(_HEADER_OCTETS[np.uint64(protocol)]), 0, 0
    if protocol == TCP and end - at > 12:
        octets = max(octets, (u8(raw, at + 12) >> 4) * 4)
        if end - at >= 16:
            flags, window = u8(raw, at + 13), u16_big(raw, at + 14)
        elif end - at >= 14:
            flags = u8(raw, at + 13)
    return octets, flags, window
