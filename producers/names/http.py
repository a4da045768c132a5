"""The host in an HTTP/1 request (RFC 9112), from as much of it as has come."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u8, u16_big
from producers.names.text import MORE, NAME_ROOM, NOTHING, VERDICTS, Verdict, write_host

MAX_REQUEST = 8192
"""Octets of a request in which its host is looked for."""
_LINE_END, _SPACE, _TAB, _COLON = 0x0D0A, 32, 9, 58
_VERSION = tuple(b" HTTP/1.")
_HOST = tuple(b"host:")


@njit(cache=True, nogil=True)
def http_host(data: NDArray[np.uint8], at: int, stop: int, out: NDArray[np.uint8]) -> int:
    """Write the host of the first request in ``data[at:stop]``, of its Host header and without the port, to ``out``.

    Returns its length, NOTHING or MORE.
    """
    short = MORE if stop - at < MAX_REQUEST else NOTHING
    stop = min(stop, at + MAX_REQUEST)
    is_first = True
    while True:
        end = at
        while end + 1 < stop and u16_big(data, end) != _LINE_END:
            end += 1
        if end + 1 >= stop:
            return short  # the last line may be cut short
        if is_first:
            if not _has_version(data, at, end):
                return NOTHING
            is_first = False
        elif end == at:
            return NOTHING
        elif _is_host(data, at, end):
            return _value(data, at + len(_HOST), end, out)
        at = end + 2


@njit(cache=True, nogil=True)
def _has_version(data: NDArray[np.uint8], at: int, end: int) -> bool:
    for start in range(at, end - len(_VERSION) + 1):
        matching = 0
        while matching < len(_VERSION) and u8(data, start + matching) == _VERSION[matching]:
            matching += 1
        if matching == len(_VERSION):
            return True
    return False


@njit(cache=True, nogil=True)
def _is_host(data: NDArray[np.uint8], at: int, end: int) -> bool:
    if end - at < len(_HOST) or u8(data, at + 4) != _COLON:
        return False
    same = 0
    for i in range(4):
        same += u8(data, at + i) | 0x20 == _HOST[i]  # in either case
    return same == 4


@njit(cache=True, nogil=True)
def _value(data: NDArray[np.uint8], at: int, end: int, out: NDArray[np.uint8]) -> int:
    while at < end and (u8(data, at) == _SPACE or u8(data, at) == _TAB):
        at += 1
    while end > at and (u8(data, end - 1) == _SPACE or u8(data, end - 1) == _TAB):
        end -= 1
    port = at
    while port < end and u8(data, port) != _COLON:
        port += 1
    return write_host(data, at, port, out)


def name_in_request(data: bytes) -> str | Verdict:
    """Return the host of the first request in ``data``."""
    out = np.empty(NAME_ROOM, np.uint8)
    length = http_host(np.frombuffer(data, np.uint8), 0, len(data), out)
    return VERDICTS[length] if length <= 0 else out[:length].tobytes().decode("ascii")
