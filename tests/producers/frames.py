"""Frames, packets and capture files built by hand, and what the decoder makes of them."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from producers.columns import PacketColumns
from producers.decoder.reasons import DecodeCounters
from producers.sources.capture import open_capture

ETHERNET = 1
IP4, IP6, VLAN, QINQ, MPLS, PPPOE = 0x0800, 0x86DD, 0x8100, 0x88A8, 0x8847, 0x8864
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
SYN, ACK = 0x02, 0x10


def ethernet(payload: bytes, kind: int = IP4) -> bytes:
    return b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack(">H", kind) + payload


def vlan(payload: bytes, kind: int = IP4, tag: int = 7) -> bytes:
    """Return what follows an EtherType of a VLAN: tag, next EtherType, payload."""
    return struct.pack(">HH", tag, kind) + payload


def ip4(
    payload: bytes,
    protocol: int = TCP,
    source: str = "10.0.0.1",
    destination: str = "10.0.0.2",
    *,
    ttl: int = 64,
    identification: int = 1,
    fragment: int = 0,
    options: bytes = b"",
    total_length: int | None = None,
) -> bytes:
    """Return an IPv4 packet; ``fragment`` is the field with its flags."""
    header_length = 20 + len(options)
    total = header_length + len(payload) if total_length is None else total_length
    return (
        struct.pack(
            ">BBHHHBBH4s4s", 0x40 | header_length // 4, 0, total, identification, fragment, ttl, protocol, 0,
            ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address(destination).packed,
        )
        + options
        + payload
    )  # fmt: skip


def ip6(
    payload: bytes,
    protocol: int = TCP,
    source: str = "2001:db8::1",
    destination: str = "2001:db8::2",
    *,
    ttl: int = 64,
    payload_length: int | None = None,
) -> bytes:
    length = len(payload) if payload_length is None else payload_length
    return (
        struct.pack(">IHBB", 0x60000000, length, protocol, ttl)
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(destination).packed
        + payload
    )


def extension(payload: bytes, protocol: int, words: int = 0) -> bytes:
    """Return an IPv6 extension header of 8 * (words + 1) octets, and what follows it."""
    return struct.pack(">BB", protocol, words) + bytes(6 + 8 * words) + payload


def fragment6(payload: bytes, protocol: int, offset: int, more: bool, identification: int = 1) -> bytes:
    """Return an IPv6 fragment header (``offset`` in octets), and what follows it."""
    return struct.pack(">BBHI", protocol, 0, offset | int(more), identification) + payload


def tcp(
    source: int = 40000,
    destination: int = 443,
    payload: bytes = b"",
    *,
    flags: int = ACK,
    window: int = 1024,
    options: bytes = b"",
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack(">HHIIBBHHH", source, destination, 1, 2, offset, flags, window, 0, 0)
    return head + options + payload


def udp(source: int = 40000, destination: int = 53, payload: bytes = b"") -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHI", kind, code, 0, 0) + payload


def sctp(source: int = 5000, destination: int = 6000, payload: bytes = b"") -> bytes:
    return struct.pack(">HHII", source, destination, 0, 0) + payload


class Record(NamedTuple):
    """A record of a capture."""

    data: bytes
    time_ns: int = 1_700_000_000_000_001_000
    original: int | None = None


def pcap(
    records: list[Record], link_type: int = ETHERNET, *, order: str = "<", nanoseconds: bool = False
) -> bytes:
    """Return a classic pcap file."""
    magic, tick = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262_144, link_type)
    for data, time_ns, original in records:
        seconds, rest = divmod(time_ns, 1_000_000_000)
        wire = len(data) if original is None else original
        out += struct.pack(order + "IIII", seconds, rest // tick, len(data), wire) + data
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Return a pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(
    link_type: int = ETHERNET, *, options: bytes = b"", snaplen: int = 0, order: str = "<"
) -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(record: Record, number: int = 0, *, order: str = "<", ticks: int | None = None) -> bytes:
    """Return an enhanced packet block; its clock counts microseconds unless ``ticks`` tells the count."""
    count = record.time_ns // 1000 if ticks is None else ticks
    wire = len(record.data) if record.original is None else record.original
    head = struct.pack(order + "IIIII", number, count >> 32, count & 0xFFFFFFFF, len(record.data), wire)
    return block(6, head + record.data, order)


def pcapng(records: list[Record], link_type: int = ETHERNET, *, order: str = "<") -> bytes:
    """Return a pcapng file of one section and one interface."""
    packets = (enhanced(record, order=order) for record in records)
    return section(order) + interface(link_type, order=order) + b"".join(packets)


class Decoded(NamedTuple):
    """What a capture decoded to."""

    rows: list[dict[str, Any]]
    counters: DecodeCounters
    warnings: list[str]

    @property
    def row(self) -> dict[str, Any]:
        """Return the only packet."""
        assert self.counters.accepted == len(self.rows) == 1, self.counters
        return self.rows[0]


def rows_of(columns: PacketColumns) -> list[dict[str, Any]]:
    """Return packets as dictionaries of Python values, addresses as bytes."""
    values = {
        name: [bytes(v) for v in column] if column.ndim == 2 else column.tolist()
        for name, column in columns._asdict().items()
        if len(column)
    }
    return [{name: values[name][i] for name in values} for i in range(columns.packets)]


def decode_file(path: Path | str, max_packets: int = 8192, **how: Any) -> Decoded:
    """Decode a capture file; ``how`` goes to ``open_capture``."""
    rows: list[dict[str, Any]] = []
    with open_capture(str(path), **how) as capture:
        for columns in capture.blocks(max_packets):
            assert 0 < columns.packets <= max_packets
            rows += rows_of(columns)
        counters = capture.counters
        assert counters.accepted == len(rows)
        assert counters.accepted + sum(counters.skipped.values()) == counters.read
        return Decoded(rows, counters, list(capture.warnings))


def decode_frame(tmp_path: Path, frame: bytes, link_type: int = ETHERNET, **record: Any) -> Decoded:
    """Decode a capture of one frame."""
    path = tmp_path / "frame.pcap"
    path.write_bytes(pcap([Record(frame, **record)], link_type))
    return decode_file(path)


def address(text: str) -> bytes:
    """Return an address as the columns hold it."""
    return ipaddress.ip_address(text).packed.ljust(16, b"\0")


def mixed_records(count: int, seed: int = 1) -> list[Record]:
    """Return a capture's worth of packets of several kinds, of seeded random sizes and endpoints."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        a, b = (f"10.0.{rng.integers(4)}.{rng.integers(1, 255)}" for _ in range(2))
        body = rng.bytes(int(rng.integers(0, 1400)))
        port, kind = int(rng.integers(1024, 65536)), i % 6
        frame = (
            ethernet(ip4(tcp(port, 443, body), TCP, a, b)),
            ethernet(ip4(udp(port, 53, body), UDP, a, b)),
            ethernet(ip6(udp(port, 443, body), UDP), IP6),
            ethernet(vlan(ip4(icmp(8, payload=body), ICMP, a, b)), VLAN),
            ethernet(b"\0\1" + body, 0x0806),
            ethernet(ip4(sctp(port, 3868, body), SCTP, b, a)),
        )[kind]
        records.append(Record(frame, 1_700_000_000_000_000_000 + i * 1_234_000))
    return records
