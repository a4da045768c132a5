"""IP headers: addresses, lengths, fragments, extension headers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.fragments import Fragments, allocate_fragments, recall, remember
from producers.decoder.octets import u8, u16_big, u32_big, u32_little, word_big, word_little
from producers.decoder.reasons import (
    ACCEPTED,
    BAD_IP_HEADER,
    COUNTS,
    FRAGMENTS_WITHOUT_FIRST,
    TRUNCATED_IP,
    TRUNCATED_TRANSPORT,
)
from producers.decoder.transport import has_ports, header_length, ports_at, tcp_fields
from schemas.flow_key import ICMP6, TCP, UDP, hash_words

# IPv6 extension headers (RFC 8200, RFC 7045) and the protocol number that says "nothing follows".
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _NOTHING, _DESTINATION = 0, 43, 44, 51, 59, 60
_MOBILITY, _HIP, _SHIM6 = 135, 139, 140
_EXTENSIONS = (_HOP_BY_HOP, _ROUTING, _DESTINATION, _FRAGMENT, _AUTHENTICATION, _MOBILITY, _HIP, _SHIM6)
_MAX_EXTENSIONS = 16
_MAX_OCTETS = 0xFFFFFFFF
_LOW32 = 0xFFFFFFFF
_NO_WORD = np.uint64(0)


class DecodeState(NamedTuple):
    """What a decoder keeps between frames."""

    counts: NDArray[np.int64]
    """By result of decoding (see ``producers.decoder.reasons``)."""
    fragments: Fragments


def allocate_state() -> DecodeState:
    """Return the state of a decoder that has seen nothing yet."""
    return DecodeState(np.zeros(COUNTS, np.int64), allocate_fragments())


class Packet(NamedTuple):
    """What one IP packet tells, as sent. Scalars only: arrays would cost reference counts for each packet."""

    result: int
    """ACCEPTED, or the reason for skipping the packet; then the rest is meaningless."""
    version: int
    protocol: int
    source: tuple[np.uint64, np.uint64]
    """The two little-endian words of the 16-byte address."""
    destination: tuple[np.uint64, np.uint64]
    order: int
    """Positive where the source address is the larger one, 0 where both are equal."""
    ports: int
    """Source port << 16 | destination port."""
    ttl: int
    octets: int
    header_octets: int
    tcp_flags: int
    tcp_window: int


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def skipped(reason: int) -> Packet:
    """Return the packet that stands for a skipped one."""
    none = (_NO_WORD, _NO_WORD)
    return Packet(reason, 0, 0, none, none, 0, 0, 0, 0, 0, 0, 0)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def decode_ip4(
    raw: NDArray[np.uint8], at: int, end: int, wire_octets: int, time_ns: int, state: DecodeState
) -> Packet:
    """Decode the IPv4 packet in ``raw[at:end]``.

    Args:
        raw, at, end: captured bytes from the IP header on; ``end`` may cut the packet short.
        wire_octets: octets on the wire from the IP header on, for packets that do not tell their length.
        time_ns: capture time.
        state: counts and fragments of this decoder.
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
    transport, stop = at + header, min(end, at + octets)
    offset = fragment & 0x1FFF
    if fragment & 0x3FFF:
        key = hash_words(source[0], _NO_WORD, destination[0], _NO_WORD, u16_big(raw, at + 4), 0, protocol, 4)
        ports = _fragment(raw, transport, stop, protocol, offset == 0, key, time_ns, state)
        if ports >= 0:
            ports &= _LOW32
    else:
        ports = ports_at(raw, transport, stop, protocol)
    if ports < 0:
        return skipped(TRUNCATED_TRANSPORT)
    flags, window = tcp_fields(raw, transport, stop, protocol, offset == 0)
    if offset == 0:
        header += header_length(raw, transport, stop, protocol)
    return Packet(
        ACCEPTED, 4, protocol, source, destination, u32_big(raw, at + 12) - u32_big(raw, at + 16), ports,
        u8(raw, at + 8), octets, min(header, octets), flags, window,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def decode_ip6(
    raw: NDArray[np.uint8], at: int, end: int, wire_octets: int, time_ns: int, state: DecodeState
) -> Packet:
    """Decode the IPv6 packet in ``raw[at:end]``; arguments as for ``decode_ip4``."""
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
    offset = 0
    if fragment < 0:
        ports = ports_at(raw, transport, stop, protocol)
    else:
        offset = u16_big(raw, fragment + 2) & 0xFFF8
        # The protocol is no part of the key: fragments after the first may tell another (RFC 8200).
        key = hash_words(
            source[0], source[1], destination[0], destination[1],
            u16_big(raw, fragment + 4), u16_big(raw, fragment + 6), 0, 6,
        )  # fmt: skip
        ports = _fragment(raw, transport, stop, protocol, offset == 0, key, time_ns, state)
        if ports >= 0:
            protocol, ports = ports >> 32, ports & _LOW32
    if ports < 0:
        return skipped(TRUNCATED_TRANSPORT)
    order = _compare(word_big(raw, at + 8), word_big(raw, at + 24))
    if order == 0:
        order = _compare(word_big(raw, at + 16), word_big(raw, at + 32))
    flags, window = tcp_fields(raw, transport, stop, protocol, offset == 0)
    header = transport - at
    if offset == 0:
        header += header_length(raw, transport, stop, protocol)
    return Packet(
        ACCEPTED, 6, protocol, source, destination, order, ports,
        u8(raw, at + 7), octets, min(header, octets), flags, window,
    )  # fmt: skip


@njit(cache=True, nogil=True, forceinline=True)
def _compare(left: np.uint64, right: np.uint64) -> int:
    return 1 if left > right else (-1 if left < right else 0)


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True)
def _fragment(
    raw: NDArray[np.uint8],
    at: int,
    stop: int,
    protocol: int,
    is_first: bool,
    key: np.uint64,
    time_ns: int,
    state: DecodeState,
) -> int:
    """Return protocol << 32 | ports of a fragment whose payload is at ``at``, or -1 if they are cut off."""
    if is_first:
        ports = ports_at(raw, at, stop, protocol)
        if ports < 0:
            return -1
        value = (protocol << 32) | ports
        remember(state.fragments, key, time_ns, value)
        return value
    value = recall(state.fragments, key, time_ns)
    if value < 0:
        if has_ports(protocol):
            state.counts[FRAGMENTS_WITHOUT_FIRST] += 1
        return protocol << 32
    return value
