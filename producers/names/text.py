"""Names as text: lower case, without the final dot, of the characters that host names have."""

from __future__ import annotations

import re
from enum import Enum

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_NAME, NAME_ROOM = 253, 256
_MAX_LABEL = 63
_NAME = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,126}")
_ALL_DIGITS = re.compile(rb"[0-9.]+")


class Verdict(Enum):
    """What a parser says where it has no name to give."""

    MORE = "more bytes may tell a name"
    NOTHING = "no name is to come"


def host_name(raw: bytes) -> str | None:
    """Return bytes off the wire as a host name, or None where they are none (an address is none).

    Whoever sends packets chooses these bytes: what a host name cannot hold never reaches a record.
    """
    name = raw.lower().removesuffix(b".")
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or _ALL_DIGITS.fullmatch(name):
        return None
    return name.decode("ascii")


NOTHING, MORE = -1, 0
"""What compiled parsers return instead of a name's length: no name is to come; more bytes may tell one."""
VERDICTS = {NOTHING: Verdict.NOTHING, MORE: Verdict.MORE}
_DOT, _UPPER, _LOWER = 46, 65, 97


@njit(cache=True, nogil=True)
def write_host(data: NDArray[np.uint8], at: int, stop: int, out: NDArray[np.uint8]) -> int:
    """Write ``host_name`` of ``data[at:stop]`` to ``out``, of ``NAME_ROOM`` octets; return its length or NOTHING."""
    if stop > at and data[stop - 1] == _DOT:
        stop -= 1
    length = stop - at
    if not 0 < length <= MAX_NAME:
        return NOTHING
    label, is_address = 0, True
    for i in range(length):
        octet = np.int64(data[at + i])
        if _UPPER <= octet < _UPPER + 26:
            octet += _LOWER - _UPPER
        out[i] = octet
        if octet == _DOT:
            if label == 0:
                return NOTHING
            label = 0
            continue
        is_digit = 48 <= octet < 58
        if label == _MAX_LABEL or not (
            is_digit or _LOWER <= octet < _LOWER + 26 or octet == 45 or octet == 95
        ):
            return NOTHING
        label += 1
        is_address = is_address and bool(is_digit)
    return NOTHING if label == 0 or is_address else length
