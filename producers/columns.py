"""Decoded packets in columns, one row each: what the decoder writes and the batcher reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.packets import NO_EXTRA, Extra


class PacketColumns(NamedTuple):
    """Columns of decoded packets; all have the same number of rows. A named tuple, so that Numba takes it.

    The five-tuple is canonical (see ``schemas.flow_key``): ``direction`` is 0 where the packet goes from
    endpoint a to b, 1 where it goes from b to a. Units and meanings are those of the packet batch's schema.
    """

    time_ns: NDArray[np.int64]
    octets: NDArray[np.uint32]
    header_octets: NDArray[np.uint16]
    tcp_window: NDArray[np.uint16]
    tcp_flags: NDArray[np.uint8]
    ttl: NDArray[np.uint8]
    direction: NDArray[np.uint8]
    flow_hash: NDArray[np.uint64]
    address_a: NDArray[np.uint8]
    """(rows, 16)"""
    address_b: NDArray[np.uint8]
    """(rows, 16)"""
    port_a: NDArray[np.uint16]
    port_b: NDArray[np.uint16]
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    # What follows has no rows where nobody asked for it (``schemas.packets.Extra``).
    tcp_sequence: NDArray[np.uint32]
    tcp_acknowledgment: NDArray[np.uint32]
    head_length: NDArray[np.uint16]
    """0: the packet's head is not to be sent."""
    heads: NDArray[np.uint8]
    """(rows, octets): the first octets of each packet from the IP header on, addresses set to 0"""
    flow_direction: NDArray[np.uint8]
    """INGRESS, EGRESS or NOT_KNOWN, see ``schemas.packets``"""

    @property
    def packets(self) -> int:
        """Return the number of rows."""
        return len(self.time_ns)

    def head(self, rows: int) -> PacketColumns:
        """Return the first ``rows`` rows, over the same memory."""
        return PacketColumns(*(column[:rows] for column in self))  # type: ignore[arg-type]

    def part(self, start: int, stop: int) -> PacketColumns:
        """Return the rows from ``start`` up to ``stop``, over the same memory."""
        return PacketColumns(*(column[start:stop] for column in self))  # type: ignore[arg-type]


_WIDE = {"address_a": 16, "address_b": 16}
_TYPES: dict[str, Any] = {
    "time_ns": np.int64,
    "octets": np.uint32,
    "header_octets": np.uint16,
    "tcp_window": np.uint16,
    "tcp_flags": np.uint8,
    "ttl": np.uint8,
    "direction": np.uint8,
    "flow_hash": np.uint64,
    "address_a": np.uint8,
    "address_b": np.uint8,
    "port_a": np.uint16,
    "port_b": np.uint16,
    "protocol": np.uint8,
    "ip_version": np.uint8,
}


def allocate(rows: int, extra: Extra = NO_EXTRA) -> PacketColumns:
    """Return zeroed columns with room for ``rows`` packets, and for what is asked for beyond the usual."""
    tcp_rows = rows if extra.tcp else 0
    head_rows = rows if extra.head_packets and extra.head_octets else 0
    return PacketColumns(
        **{
            name: np.zeros((rows, _WIDE[name]) if name in _WIDE else rows, dtype=dtype)
            for name, dtype in _TYPES.items()
        },
        tcp_sequence=np.zeros(tcp_rows, np.uint32),
        tcp_acknowledgment=np.zeros(tcp_rows, np.uint32),
        head_length=np.zeros(head_rows, np.uint16),
        heads=np.zeros((head_rows, extra.head_octets), np.uint8),
        flow_direction=np.zeros(rows if extra.direction else 0, np.uint8),
    )
