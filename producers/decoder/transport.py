"""Transport headers: ports (for ICMP what Community ID puts there) and header lengths."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big
from schemas.flow_key import ICMP, ICMP4_COUNTERPARTS, ICMP6, ICMP6_COUNTERPARTS, SCTP, TCP, UDP


@njit(cache=True, nogil=True, forceinline=True)
def has_ports(protocol: int) -> bool:
    """Return whether the five-tuple of this protocol has ports, or stand-ins for them."""
    return protocol in (TCP, UDP, ICMP, ICMP6, SCTP)


@njit(cache=True, nogil=True, forceinline=True)
def ports_at(raw: NDArray[np.uint8], at: int, end: int, protocol: int) -> int:
    """Return source port << 16 | destination port of a transport header, or -1 where the bytes end before."""
    if protocol in (TCP, UDP, SCTP):
        return u32_big(raw, at) if end - at >= 4 else -1
    if protocol in (ICMP, ICMP6):
        if end - at < 2:
            return -1
        kind = u8(raw, at)
        answer = np.int64(ICMP4_COUNTERPARTS[kind] if protocol == ICMP else ICMP6_COUNTERPARTS[kind])
        return (kind << 16) | (answer if answer >= 0 else u8(raw, at + 1))
    return 0


@njit(cache=True, nogil=True, forceinline=True)
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
    if protocol == ICMP:
        return ICMP4_COUNTERPARTS[source_port & 0xFF] >= 0
    return protocol != ICMP6 or ICMP6_COUNTERPARTS[source_port & 0xFF] >= 0


@njit(cache=True, nogil=True, forceinline=True)
def header_length(raw: NDArray[np.uint8], at: int, end: int, protocol: int) -> int:
    """Return the octets of a transport header, the least it can be where the capture cut it short."""
    if protocol == TCP:
        return max(20, (u8(raw, at + 12) >> 4) * 4) if end - at > 12 else 20
    if protocol in (UDP, ICMP, ICMP6):
        return 8
    return 12 if protocol == SCTP else 0


@njit(cache=True, nogil=True, forceinline=True)
def tcp_fields(raw: NDArray[np.uint8], at: int, end: int, protocol: int, has_header: bool) -> tuple[int, int]:
    """Return TCP's flags and window; 0 where the capture cut them off or the packet has none."""
    if protocol != TCP or not has_header or end - at < 14:
        return 0, 0
    return u8(raw, at + 13), u16_big(raw, at + 14) if end - at >= 16 else 0
