"""IP headers: addresses, lengths, fragments, extension headers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big, u32_little, word_big, word_little
from producers.decoder.reasons import ACCEPTED, BAD_IP_HEADER, TRUNCATED_IP
from schemas.compiled import compiled
from schemas.flow_key import ICMP6, TCP, UDP, hash_words

WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT = 0, 1, 2

# IPv6 extension headers (RFC 8200, RFC 7045) and the protocol number that says "nothing follows".
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NOTHING, _DESTINATION = 0, 43, 44, 51, 59, 60
_MOBILITY, _HIP, _SHIM6 = 135, 139, 140
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT, _AUTHENTICATION, _MOBILITY, _HIP, _SHIM6)
_MAX_EXTENSIONS = 16
_MAX_OCTETS = 0xFFFFFFFF
_NO_WORD = np.uint64(0)


class IpPacket(NamedTuple):
    """What an IP header tells, as sent. Scalars only: arrays would cost reference counts for each packet."""

    result: int
    """ACCEPTED, or the reason for skipping the packet; then the rest is meaningless."""
    version: int
    protocol: int
    source: tuple[np.uint64, np.uint64]
    """The two little-endian words of the 16-byte address."""
    destination: tuple[np.uint64, np.uint64]
    order: int
    """Positive where the source address is the larger one, 0 where both are equal."""
    ttl: int
    octets: int
    header_octets: int
    transport: int
    """Index of the transport header."""
    stop: int
    """Index after the packet's last captured byte."""
    part: int
    """WHOLE, FIRST_FRAGMENT or LATER_FRAGMENT."""
    datagram: np.uint64
    """Of a fragment: the key of its datagram."""


@compiled(error_model="numpy", forceinline=True)
def skipped(reason: int) -> IpPacket:
    """Return the packet that stands for a skipped one."""
    none = (_NO_WORD, _NO_WORD)
    return IpPacket(reason, 0, 0, none, none, 0, 0, 0, 0, 0, 0, 0, _NO_WORD)


@compiled(error_model="numpy", forceinline=True)
def decode_ip4(raw: NDArray[np.uint8], at: int, end: int, wire_octets: int) -> IpPacket:
    """Decode the IPv4 header of the packet in ``raw[at:end]``.

    Args:
        raw, at, end: captured bytes from the IP header on; ``end`` may cut the packet short.
        wire_octets: octets on the wire from the IP header on, for packets that do not tell their length.
    """
    if end - at < 20:
        return skipped(TRUNCATED_IP)
    header, octets = (u8(raw, at) & 0x0F) * 4, u16_big(raw, at + 2)
    if octets == 0:
        # Segmentation offload: the network card fills in the length later.
        octets = min(wire_octets, _MAX_OCTETS)
    if header < 20 or octets < header:
        return skipped(BAD_IP_HEADER)
    protocol, fragment = u8(raw, at + 9), u16_big(raw, at + 6)
    source = (np.uint64(u32_little(raw, at + 12)), _NO_WORD)
    destination = (np.uint64(u32_little(raw, at + 16)), _NO_WORD)
    part, datagram = WHOLE, _NO_WORD
    if fragment & 0x3FFF:
        part = LATER_FRAGMENT if fragment & 0x1FFF else FIRST_FRAGMENT
        identification = u16_big(raw, at + 4)
        datagram = hash_words(source[0], _NO_WORD, destination[0], _NO_WORD, identification, 0, protocol, 4)
    order = u32_big(raw, at + 12) - u32_big(raw, at + 16)
    return IpPacket(
        ACCEPTED, 4, protocol, source, destination, order, u8(raw, at + 8), octets, header,
        at + header, min(end, at + octets), part, datagram,
    )  # fmt: skip


@compiled(error_model="numpy", forceinline=True)
def decode_ip6(raw: NDArray[np.uint8], at: int, end: int, wire_octets: int) -> IpPacket:
    """Decode the IPv6 headers of the packet in ``raw[at:end]``; arguments as for ``decode_ip4``."""
    if end - at < 40:
        return skipped(TRUNCATED_IP)
    octets, protocol = 40 + u16_big(raw, at + 4), u8(raw, at + 6)
    if octets == 40 and protocol != _NOTHING:
        # Segmentation offload, or a jumbogram.
        octets = max(40, min(wire_octets, _MAX_OCTETS))
    stop = min(end, at + octets)
    transport, fragment = at + 40, -1
    if protocol not in (TCP, UDP, ICMP6):
        transport, protocol, fragment = _skip_extensions(raw, transport, stop, protocol)
        if transport < 0:
            return skipped(-transport)
    source = (word_little(raw, at + 8), word_little(raw, at + 16))
    destination = (word_little(raw, at + 24), word_little(raw, at + 32))
    part, datagram = WHOLE, _NO_WORD
    if fragment >= 0:
        part = LATER_FRAGMENT if u16_big(raw, fragment + 2) & 0xFFF8 else FIRST_FRAGMENT
        # The protocol is no part of the key: fragments after the first may tell another (RFC 8200).
        datagram = hash_words(
            source[0], source[1], destination[0], destination[1],
            u16_big(raw, fragment + 4), u16_big(raw, fragment + 6), 0, 6,
        )  # fmt: skip
    order = _compare(word_big(raw, at + 8), word_big(raw, at + 24))
    if order == 0:
        order = _compare(word_big(raw, at + 16), word_big(raw, at + 32))
    return IpPacket(
        ACCEPTED, 6, protocol, source, destination, order, u8(raw, at + 7), octets, transport - at,
        transport, stop, part, datagram,
    )  # fmt: skip


@compiled(forceinline=True)
def _compare(left: np.uint64, right: np.uint64) -> int:
    return 1 if left > right else (-1 if left < right else 0)


@compiled(error_model="numpy")
def _skip_extensions(raw: NDArray[np.uint8], at: int, stop: int, kind: int) -> tuple[int, int, int]:
    """Walk IPv6 extension headers from ``at``, the first one being of type ``kind``.

    Returns:
        Where the walk ends (or minus a reason for skipping the packet), the protocol there, and where the
        fragment header is (or -1).
    """
    fragment = -1
    for _ in range(_MAX_EXTENSIONS):
        if kind not in _EXTENSIONS:
            return at, kind, fragment
        if stop - at < 8:
            return -TRUNCATED_IP, kind, fragment
        following = u8(raw, at)
        if following == _NOTHING and kind in (_MOBILITY, _HIP, _SHIM6):
            return at, kind, fragment
        if kind == _FRAGMENT:
            fragment = at
            at += 8
            if u16_big(raw, fragment + 2) & 0xFFF8:
                return at, following, fragment
        elif kind == _AUTHENTICATION:
            at += (u8(raw, at + 1) + 2) * 4
        else:
            at += (u8(raw, at + 1) + 1) * 8
        kind = following
    return -BAD_IP_HEADER, kind, fragment
