"""Whether a packet belongs to a TCP, TLS or QUIC handshake, told from its first octets.

What a handshake says in the clear (the server's name, certificates) is what deep packet inspection labels flows
by, so models are judged with and without these packets. TLS 1.3 hides most of its handshake in records that
look like data; those do not count.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big, u32_big
from schemas.flow_key import TCP, UDP

NEITHER, HANDSHAKE, TLS_HANDSHAKE, TLS_DATA = 0, 1, 2, 3

_SYN = 2
_CHANGE_CIPHER_SPEC, _TLS_HANDSHAKE, _APPLICATION_DATA = 20, 22, 23
_QUIC_1, _QUIC_2, _QUIC_DRAFTS, _MVFST = 0x00000001, 0x6B3343CF, 0xFF0000, 0xFACEB0


@njit(cache=True, nogil=True, error_model="numpy")
def kind_of(raw: NDArray[np.uint8], at: int, stop: int, protocol: int, tcp_flags: int) -> int:
    """Return TLS_HANDSHAKE (over TCP), HANDSHAKE (any other), TLS_DATA (application data over TCP) or NEITHER.

    Args:
        raw: bytes that hold the packet.
        at: index of the first byte behind the transport header.
        stop: index after the last captured byte.
        protocol: IANA protocol number.
        tcp_flags: the TCP flags.
    """
    if protocol == TCP:
        if tcp_flags & _SYN:
            return HANDSHAKE
        if stop - at < 3 or u8(raw, at + 1) != 3 or u8(raw, at + 2) > 4:
            return NEITHER
        content = u8(raw, at)
        if content == _APPLICATION_DATA:
            return TLS_DATA
        return TLS_HANDSHAKE if _CHANGE_CIPHER_SPEC <= content <= _TLS_HANDSHAKE else NEITHER
    if protocol == UDP and stop - at >= 13:
        return HANDSHAKE if _opens_quic(raw, at) or _opens_dtls(raw, at) else NEITHER
    return NEITHER


@njit(cache=True, nogil=True, error_model="numpy")
def _opens_quic(raw: NDArray[np.uint8], at: int) -> bool:
    first = u8(raw, at)
    if first & 0x80:
        version = u32_big(raw, at + 1)
        return (
            version in (_QUIC_1, _QUIC_2)
            or version >> 8 in (_QUIC_DRAFTS, _MVFST)
            or _is_google(version >> 16)
        )
    # Google's QUIC up to Q043: a version stands behind the 8 octets of the connection's id.
    return first & 0xC9 == 0x09 and _is_google(u16_big(raw, at + 9))


@njit(cache=True, nogil=True, error_model="numpy")
def _is_google(version: int) -> bool:
    """Return whether a version begins as Google's do: Q0 or T0."""
    return version in (0x5130, 0x5430)


@njit(cache=True, nogil=True, error_model="numpy")
def _opens_dtls(raw: NDArray[np.uint8], at: int) -> bool:
    return _CHANGE_CIPHER_SPEC <= u8(raw, at) <= _TLS_HANDSHAKE and u8(raw, at + 1) == 0xFE
