"""Columns of text made of numbers, for Arrow: a kernel writes them, no Python runs per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from schemas.columns import Array

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_LONGEST = 39
"""Octets of the longest address text."""


def flow_id_array(flow_ids: Array) -> Any:
    """Return flow ids (uint64) as an Arrow array of 16 hexadecimal digits each."""
    digits = np.ascontiguousarray(flow_ids, dtype=">u8").tobytes().hex().encode()
    offsets = np.arange(0, 16 * (len(flow_ids) + 1), 16, dtype=np.int32)
    return pa.StringArray.from_buffers(len(flow_ids), pa.py_buffer(offsets), pa.py_buffer(digits))


def address_array(addresses: Array, ip_version: Array) -> Any:
    """Return (rows, 16) addresses, IPv4 in the first four bytes, as an Arrow array of texts (RFC 5952)."""
    rows = len(ip_version)
    out = np.empty(rows * _LONGEST, dtype=np.uint8)
    offsets = np.empty(rows + 1, dtype=np.int32)
    raw = np.ascontiguousarray(addresses, dtype=np.uint8).reshape(rows, 16)
    end = _write_addresses(raw, np.ascontiguousarray(ip_version, dtype=np.uint8), offsets, out)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(out[:end].copy()))


@njit(cache=True, nogil=True)
def _write_addresses(
    addresses: NDArray[np.uint8],
    ip_version: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> int:
    at = 0
    for row in range(len(ip_version)):
        offsets[row] = at
        at = _write_4(addresses[row], out, at) if ip_version[row] == 4 else _write_6(addresses[row], out, at)
    offsets[len(ip_version)] = at
    return at


@njit(cache=True, nogil=True)
def _write_4(address: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    for i in range(4):
        value = int(address[i])
        if value >= 100:
            out[at] = 48 + value // 100
            at += 1
        if value >= 10:
            out[at] = 48 + value // 10 % 10
            at += 1
        out[at] = 48 + value % 10
        at += 1
        if i < 3:
            out[at] = 46
            at += 1
    return at


@njit(cache=True, nogil=True)
def _write_6(address: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    # The longest run of two or more zero groups, the first of equals, becomes "::".
    best, best_length, run = -1, 1, 0
    for i in range(8):
        run = run + 1 if address[2 * i] == 0 and address[2 * i + 1] == 0 else 0
        if run > best_length:
            best, best_length = i - run + 1, run
    i = 0
    while i < 8:
        if i == best:
            out[at] = 58
            out[at + 1] = 58
            at += 2
            i += best_length
            continue
        if i > 0 and i != best + best_length:
            out[at] = 58
            at += 1
        value = int(address[2 * i]) << 8 | int(address[2 * i + 1])
        begun = False
        for shift in (12, 8, 4, 0):
            digit = value >> shift & 15
            if digit or begun or shift == 0:
                out[at] = _HEX[digit]
                at += 1
                begun = True
        i += 1
    return at
