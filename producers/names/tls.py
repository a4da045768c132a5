"""The server name in a TLS ClientHello (RFC 8446, RFC 6066), from as much of it as has come."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big
from producers.names.text import MORE, NAME_ROOM, NOTHING, VERDICTS, Verdict, write_host

HANDSHAKE, CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_MAX_RECORD = (1 << 14) + 256
MAX_HELLO = 1 << 14
"""Longest ClientHello that is read, in octets: those of today have up to 2,000 (with post-quantum keys)."""
HELLO_ROOM = MAX_HELLO + 1024
"""Octets of a stream that may hold one, record headers included."""


@njit(cache=True, nogil=True)
def tls_name(
    data: NDArray[np.uint8], at: int, stop: int, hello: NDArray[np.uint8], out: NDArray[np.uint8]
) -> int:
    """Write the server name that a TLS client's first bytes over TCP, ``data[at:stop]``, tell to ``out``.

    The hello may be spread over several records (RFC 8446, 5.1); it is put together in ``hello``, of HELLO_ROOM
    octets. Returns the length of the name, NOTHING or MORE.
    """
    filled, short = 0, MORE
    while at < stop:
        if u8(data, at) != HANDSHAKE or (at + 1 < stop and u8(data, at + 1) != 3):
            # Other records, such as early data, may follow the hello, but not interrupt it.
            short = NOTHING
            break
        if at + 5 > stop:
            break
        length = u16_big(data, at + 3)
        if not 0 < length <= _MAX_RECORD:
            short = NOTHING
            break
        octets = min(length, stop - at - 5, len(hello) - filled)
        hello[filled : filled + octets] = data[at + 5 : at + 5 + octets]
        filled += octets
        at += 5 + length
    found = hello_name(hello, 0, filled, out)
    return short if found == MORE else found


@njit(cache=True, nogil=True)
def hello_name(data: NDArray[np.uint8], at: int, stop: int, out: NDArray[np.uint8]) -> int:
    """Write the server name in the handshake message that ``data[at:stop]`` begins to ``out``.

    Returns the length of the name, NOTHING or MORE.
    """
    octets = stop - at
    if octets < 1:
        return MORE
    if u8(data, at) != CLIENT_HELLO:
        return NOTHING
    if octets < 4:
        return MORE
    body = (u8(data, at + 1) << 16) | u16_big(data, at + 2)
    if body > MAX_HELLO:
        return NOTHING
    # Where the bytes end early: by its own length the message is not all here yet, or it is broken.
    short = MORE if octets < MAX_HELLO and octets < 4 + body else NOTHING
    at += 4 + 2 + 32  # version, random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        if at + width > stop:
            return short
        at += width + (u8(data, at) if width == 1 else u16_big(data, at))
    if at + 2 > stop:
        return short
    left = u16_big(data, at)
    at += 2
    while left >= 4:
        if at + 4 > stop:
            return short
        kind, length = u16_big(data, at), u16_big(data, at + 2)
        at += 4
        if at + length > stop:
            return short
        if kind == _SERVER_NAME:
            return _first_name(data, at, at + length, out)
        at += length
        left -= 4 + length
    return NOTHING


@njit(cache=True, nogil=True)
def _first_name(data: NDArray[np.uint8], at: int, stop: int, out: NDArray[np.uint8]) -> int:
    if at + 2 > stop:
        return NOTHING
    left = u16_big(data, at)
    at += 2
    while left >= 3 and at + 3 <= stop:
        kind, length = u8(data, at), u16_big(data, at + 1)
        at += 3
        if at + length > stop:
            break
        if kind == _HOST_NAME:
            return write_host(data, at, at + length, out)
        at += length
        left -= 3 + length
    return NOTHING


def name_in_stream(data: bytes) -> str | Verdict:
    """Return the server name from the first bytes that a TLS client sends over TCP."""
    out = np.empty(NAME_ROOM, np.uint8)
    length = tls_name(np.frombuffer(data, np.uint8), 0, len(data), np.empty(HELLO_ROOM, np.uint8), out)
    return VERDICTS[length] if length <= 0 else out[:length].tobytes().decode("ascii")


def name_in_hello(hello: bytes) -> str | Verdict:
    """Return the server name from the first bytes of a handshake message (type, length, body)."""
    out = np.empty(NAME_ROOM, np.uint8)
    length = hello_name(np.frombuffer(hello, np.uint8), 0, len(hello), out)
    return VERDICTS[length] if length <= 0 else out[:length].tobytes().decode("ascii")
