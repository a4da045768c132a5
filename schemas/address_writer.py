"""Addresses as text, written by compiled code into a buffer: what ``schemas.community_id.address_text`` gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled

Bytes = NDArray[np.uint8]
HEX: Bytes = np.frombuffer(b"0123456789abcdef", np.uint8)


@compiled
def write_address(address: Bytes, version: int, out: Bytes, at: int) -> int:
    """Write the text of an address at a place in ``out``; return the place behind it.

    Args:
        address: (16,), IPv4 in the first four.
        version: of IP; anything but 4 is taken for 6.
        out: written; room for 39 is enough.
        at: the place.
    """
    if version != 4:
        return _ipv6(address, out, at)  # type: ignore[no-any-return]
    for i in range(4):
        number = np.int64(address[i])
        if number >= 100:
            out[at] = 48 + number // 100
            at += 1
        if number >= 10:
            out[at] = 48 + number // 10 % 10
            at += 1
        out[at] = 48 + number % 10
        at += 1
        if i < 3:
            out[at] = 46
            at += 1
    return at


@compiled
def _ipv6(address: Bytes, out: Bytes, at: int) -> int:
    """Write an IPv6 address by RFC 5952: the first of the longest runs of zeros is left out."""
    best, longest, run = -1, 1, 0
    for i in range(8):
        run = run + 1 if address[2 * i] == 0 and address[2 * i + 1] == 0 else 0
        if run > longest:
            best, longest = i - run + 1, run
    i = 0
    while i < 8:
        if i == best:
            out[at] = out[at + 1] = 58
            at += 2
            i += longest
            continue
        if i > 0 and i != best + longest * (best >= 0):
            out[at] = 58
            at += 1
        group = (np.int64(address[2 * i]) << 8) | np.int64(address[2 * i + 1])
        begun = False
        for shift in (12, 8, 4, 0):
            digit = (group >> shift) & 15
            if digit or begun or shift == 0:
                out[at] = HEX[digit]
                at += 1
                begun = True
        i += 1
    return at
