"""Community ID version 1 (corelight/community-id-spec) from the project's five-tuples, and address texts."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schemas.flow_key import ICMP, ICMP4_COUNTERPART, ICMP6, ICMP6_COUNTERPART, SCTP, TCP, UDP

PORT_PROTOCOLS = frozenset({ICMP, TCP, UDP, ICMP6, SCTP})


def address_text(address: bytes, ip_version: int) -> str:
    """Return the text of a 16-byte address column value (IPv4 in its first four bytes)."""
    if ip_version == 4:
        return str(ipaddress.IPv4Address(bytes(address[:4])))
    return str(ipaddress.IPv6Address(bytes(address)))


def address_bytes(text: str) -> tuple[bytes, int]:
    """Return (16 bytes, IP version) of an address text; raises ValueError for anything else."""
    address = ipaddress.ip_address(text)
    return address.packed.ljust(16, b"\0"), address.version


def is_one_way(protocol: int, port_a: int) -> bool:
    """Return whether a five-tuple is an ICMP message that no other type answers (its order is kept)."""
    if protocol == ICMP:
        return port_a not in ICMP4_COUNTERPART
    return protocol == ICMP6 and port_a not in ICMP6_COUNTERPART


# Several rows of a flow come one after the other; each is a cut of some microseconds.
@lru_cache(maxsize=1 << 14)
def community_id(
    source: bytes, destination: bytes, source_port: int, destination_port: int, protocol: int, ip_version: int
) -> str:
    """Return the Community ID of a five-tuple, the same for both directions.

    Args:
        source, destination: 16-byte addresses, as in the columns.
        source_port, destination_port: ports; for ICMP the pair that the columns carry.
        protocol: IANA protocol number.
        ip_version: 4 or 6.
    """
    size = 4 if ip_version == 4 else 16
    a, b = (bytes(source[:size]), source_port), (bytes(destination[:size]), destination_port)
    if b < a and not is_one_way(protocol, source_port):
        a, b = b, a
    text = b"\0\0" + a[0] + b[0] + bytes((protocol, 0))
    if protocol in PORT_PROTOCOLS:
        text += a[1].to_bytes(2, "big") + b[1].to_bytes(2, "big")
    digest = hashlib.sha1(text, usedforsecurity=False).digest()
    return "1:" + base64.b64encode(digest).decode()


def community_ids(columns: dict[str, NDArray[np.generic]]) -> list[str]:
    """Return the Community ID of each row of a feature batch's columns."""
    source = np.ascontiguousarray(columns["source_address"]).tobytes()
    destination = np.ascontiguousarray(columns["destination_address"]).tobytes()
    return [
        community_id(source[16 * i : 16 * i + 16], destination[16 * i : 16 * i + 16], sp, dp, p, v)
        for i, (sp, dp, p, v) in enumerate(
            zip(
                columns["source_port"].tolist(),
                columns["destination_port"].tolist(),
                columns["protocol"].tolist(),
                columns["ip_version"].tolist(),
                strict=True,
            )
        )
    ]
