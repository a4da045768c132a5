"""TCP SYN segments through a raw socket: no connection of the kernel's stands behind them."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

_SYN = 0x02
_MSS = b"\x02\x04\x05\xb4"


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of some octets."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn_segment(source: str, destination: str, source_port: int, port: int, sequence: int) -> bytes:
    """Return a SYN with its checksum right, for either IP version."""
    head = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 6 << 4, _SYN, 64_240, 0, 0) + _MSS
    ends = ip_address(source).packed + ip_address(destination).packed
    length = struct.pack("!HH", socket.IPPROTO_TCP, len(head))
    if len(ends) == 32:
        length = struct.pack("!II", len(head), socket.IPPROTO_TCP)
    return head[:16] + struct.pack("!H", checksum(ends + length + head)) + head[18:]


class SynSender:
    """Sends SYNs from one address; a context manager. The kernel meets the answers with RST, as it knows of nothing."""

    def __init__(self, source: str) -> None:
        self._source = source
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._socket.bind((source, 0))

    def __enter__(self) -> SynSender:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, destination: str, source_port: int, port: int, sequence: int) -> None:
        """Send one SYN."""
        segment = syn_segment(self._source, destination, source_port, port, sequence)
        self._socket.sendto(segment, (destination, 0))
