"""Columns of text made of numbers, for Arrow: a kernel writes them, no Python runs per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.address_writer import write_address
from schemas.columns import Array
from schemas.compiled import compiled

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


@compiled
def _write_addresses(
    addresses: NDArray[np.uint8],
    ip_version: NDArray[np.uint8],
    offsets: NDArray[np.int32],
    out: NDArray[np.uint8],
) -> int:
    at = 0
    for row in range(len(ip_version)):
        offsets[row] = at
        at = write_address(addresses[row], ip_version[row], out, at)
    offsets[len(ip_version)] = at
    return at
