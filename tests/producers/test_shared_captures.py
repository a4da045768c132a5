"""Real captures, where they are present: counts against their tables, packets against dpkt."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dpkt

from tests.producers.frames import decode_file

PORTS = (dpkt.tcp.TCP, dpkt.udp.UDP, dpkt.sctp.SCTP)


def packet_of(frame: bytes, link_type: int) -> Any:
    """Return dpkt's IP packet of a frame, or None."""
    if link_type == 1:
        layer = dpkt.ethernet.Ethernet(frame)
    elif link_type == 113:
        layer = dpkt.sll.SLL(frame)
    elif link_type == 0:
        layer = dpkt.loopback.Loopback(frame)
    else:
        return (dpkt.ip.IP if frame[0] >> 4 == 4 else dpkt.ip6.IP6)(frame)
    # Behind VLAN tags and PPPoE.
    while hasattr(layer, "data") and not isinstance(layer, dpkt.ip.IP | dpkt.ip6.IP6 | bytes):
        layer = layer.data
    return layer if isinstance(layer, dpkt.ip.IP | dpkt.ip6.IP6) else None


def reference(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield what dpkt makes of each record; None where it finds no IP."""
    data = gzip.decompress(path.read_bytes())
    reader = dpkt.pcap.UniversalReader(io.BytesIO(data))
    for _, frame in reader:
        try:
            ip = packet_of(frame, reader.datalink())
        except (dpkt.UnpackError, IndexError):
            ip = None
        if ip is None:
            yield None
            continue
        four = isinstance(ip, dpkt.ip.IP)
        row: dict[str, Any] = {
            "octets": ip.len if four else 40 + ip.plen,
            "ttl": ip.ttl if four else ip.hlim,
            "ip_version": 4 if four else 6,
            "addresses": {ip.src.ljust(16, b"\0"), ip.dst.ljust(16, b"\0")},
        }
        if (ip.len if four else ip.plen) == 0:
            # Segmentation offload: dpkt does not look for the length elsewhere.
            del row["octets"]
        if four and not ip.offset:
            row["protocol"] = ip.p
        # A header cut by the snap length, and fragments, are left to the unit tests.
        if isinstance(ip.data, PORTS) and not (four and (ip.mf or ip.offset)):
            row["ports"] = {ip.data.sport, ip.data.dport}
            if isinstance(ip.data, dpkt.tcp.TCP):
                row["tcp_flags"], row["tcp_window"] = ip.data.flags & 0xFF, ip.data.win
        yield row


def tables(shared_data: Path) -> list[tuple[Path, int]]:
    out = []
    for folder in ("app", "attack"):
        with (shared_data / folder / "captures.csv").open() as table:
            rows = csv.DictReader(table)
            out += [(shared_data / folder / row["capture"], int(row["packets"])) for row in rows]
    return out


def test_every_record_is_read(shared_data: Path) -> None:
    for path, packets in tables(shared_data):
        decoded = decode_file(path)
        assert decoded.counters.read == packets, path.name
        assert decoded.warnings == []
        assert set(decoded.counters.skipped) <= {"not_ip"}, path.name


def test_packets_agree_with_dpkt(shared_data: Path) -> None:
    compared = with_ports = 0
    for path, _ in tables(shared_data):
        # Dpkt decodes about 30,000 packets a second: leave the largest out.
        if path.stat().st_size > 700_000:
            continue
        decoded = decode_file(path)
        expected = list(reference(path))
        assert len(expected) == decoded.counters.read
        found = [row for row in expected if row is not None]
        assert len(found) == decoded.counters.accepted, path.name
        for row, other in zip(decoded.rows, found, strict=True):
            row["addresses"] = {row["address_a"], row["address_b"]}
            row["ports"] = {row["port_a"], row["port_b"]}
            assert {name: row[name] for name in other} == other, path.name
            compared += 1
            with_ports += "ports" in other
    assert compared > 50_000
    assert with_ports > 0.9 * compared


def test_expanded_captures_decode_like_compressed_ones(shared_data: Path, tmp_path: Path) -> None:
    captures = sorted((shared_data / "app").glob("*.gz"))[::12]
    for path in captures:
        plain = tmp_path / "plain.pcap"
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        assert decode_file(plain) == decode_file(path) == decode_file(path, chunk_octets=10_000)


def test_the_demo_capture_decodes_whole(demo_capture: Path) -> None:
    decoded = decode_file(demo_capture)
    assert decoded.warnings == []
    assert set(decoded.counters.skipped) <= {"not_ip"}
    found = [row for row in reference(demo_capture) if row is not None]
    assert len(found) == decoded.counters.accepted > 1000
    assert [row["octets"] for row in decoded.rows] == [row["octets"] for row in found]
