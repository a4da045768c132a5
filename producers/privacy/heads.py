"""Heads of packets without what could tell addresses: the decoder leaves the addresses out, this the rest.

Checksums go, since they are sums over addresses too; IPv4 options and IPv6 extension headers, which may list routers;
and the payload, in which ICMP quotes packets and tunnels carry them, unless it is asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from schemas.compiled import compiled
from schemas.flow_key import ICMP, ICMP6, TCP, UDP

_IP4_OCTETS, _IP6_OCTETS = 20, 40
_IP4_CHECKSUM = 10
_CHECKSUM = np.full(256, -1, np.int64)
_CHECKSUM[[TCP, UDP, ICMP, ICMP6]] = (16, 6, 2, 2)
"""Where a protocol's checksum stands in its header."""


@compiled
def mask_heads(columns: PacketColumns, start: int, stop: int, with_payload: bool) -> None:
    """Take out of the heads of rows ``start`` to ``stop`` what could tell addresses."""
    heads, lengths, protocols = columns.heads, columns.head_length, columns.protocol
    for row in range(start, stop):
        length = np.int64(lengths[row])
        if not with_payload:
            headers = np.int64(columns.header_octets[row])
            for i in range(headers, length):
                heads[row, i] = 0
            length = min(length, headers)
            lengths[row] = length
        transport = _mask_ip(heads, row, length, np.int64(columns.header_octets[row]), protocols[row])
        checksum = _CHECKSUM[protocols[row]]
        if checksum >= 0:
            for i in range(transport + checksum, min(transport + checksum + 2, length)):
                heads[row, i] = 0


@compiled
def _mask_ip(heads: NDArray[np.uint8], row: int, length: int, header_octets: int, protocol: int) -> int:
    """Mask the IP header; return where the transport header begins.

    Behind IPv6 extension headers nobody knows that any more: then all headers are masked.
    """
    if length and heads[row, 0] >> 4 == 4:
        transport = int(heads[row, 0] & 15) * 4
        for i in range(_IP4_CHECKSUM, min(_IP4_CHECKSUM + 2, length)):
            heads[row, i] = 0
        first = _IP4_OCTETS
    elif length > 6 and heads[row, 6] == protocol:
        return _IP6_OCTETS
    else:
        transport, first = header_octets, _IP6_OCTETS
    for i in range(first, min(transport, length)):
        heads[row, i] = 0
    return int(transport)
