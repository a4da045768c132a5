"""Frames of every kind: what a packet's columns hold, and the reason where there is none."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.producers.frames import (
    ACK,
    ICMP,
    ICMP6,
    IP4,
    IP6,
    MPLS,
    PPPOE,
    QINQ,
    SCTP,
    SYN,
    TCP,
    UDP,
    VLAN,
    Record,
    address,
    decode_file,
    decode_frame,
    ethernet,
    extension,
    fragment6,
    icmp,
    ip4,
    ip6,
    pcap,
    sctp,
    tcp,
    udp,
    vlan,
)  # fmt: skip


def skipped(tmp_path: Path, frame: bytes, link_type: int = 1, **record: Any) -> str:
    decoded = decode_frame(tmp_path, frame, link_type, **record)
    (reason,) = decoded.counters.skipped
    assert decoded.counters.skipped[reason] == decoded.counters.read == 1
    return reason


def test_tcp_over_ethernet_fills_every_column(tmp_path: Path) -> None:
    segment = tcp(40000, 443, b"hello", flags=SYN | ACK, window=512, options=b"\x01" * 8)
    row = decode_frame(
        tmp_path,
        ethernet(ip4(segment, TCP, "10.0.0.2", "10.0.0.1", ttl=61)),
        time_ns=1_600_000_000_123_456_000,
    ).row
    assert row.pop("flow_hash") != 0
    assert row == {
        "time_ns": 1_600_000_000_123_456_000,
        "octets": 20 + 28 + 5,
        "header_octets": 48,
        "tcp_window": 512,
        "tcp_flags": 0x12,
        "ttl": 61,
        "direction": 1,
        "address_a": address("10.0.0.1"),
        "address_b": address("10.0.0.2"),
        "port_a": 443,
        "port_b": 40000,
        "protocol": TCP,
        "ip_version": 4,
    }


def test_ip6_udp(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip6(udp(1, 2, b"abc"), UDP, ttl=5), IP6)).row
    assert (row["ip_version"], row["protocol"], row["ttl"], row["direction"]) == (6, UDP, 5, 0)
    assert (row["octets"], row["header_octets"]) == (40 + 8 + 3, 48)
    assert (row["address_a"], row["address_b"]) == (address("2001:db8::1"), address("2001:db8::2"))
    assert (row["port_a"], row["port_b"], row["tcp_flags"], row["tcp_window"]) == (1, 2, 0, 0)


def test_addresses_are_ordered_as_bytes_not_as_words(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(udp(1, 2), UDP, "1.0.0.2", "2.0.0.1"))).row
    assert (row["direction"], row["address_a"]) == (0, address("1.0.0.2"))
    row = decode_frame(tmp_path, ethernet(ip6(udp(1, 2), UDP, "2001:db8::2:1", "2001:db8::1:2"), IP6)).row
    assert (row["direction"], row["address_a"]) == (1, address("2001:db8::1:2"))


@pytest.mark.parametrize(
    ("ports", "direction", "expected"), [((5, 9), 0, (5, 9)), ((9, 5), 1, (5, 9)), ((7, 7), 0, (7, 7))]
)
def test_equal_addresses_are_ordered_by_port(
    tmp_path: Path, ports: tuple[int, int], direction: int, expected: tuple[int, int]
) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(udp(*ports), UDP, "10.0.0.1", "10.0.0.1"))).row
    assert (row["direction"], (row["port_a"], row["port_b"])) == (direction, expected)


PACKET = ip4(udp(1, 2, b"x" * 30), UDP)
PACKET6 = ip6(udp(1, 2, b"x" * 30), UDP)
SNAP = b"\xaa\xaa\x03\0\0\0"
DATA_FRAME = b"\x08\x01\0\0" + bytes(20)
QOS_FRAME = b"\x88\x02\0\0" + bytes(22)
LINKS = {
    "802.1Q": (1, ethernet(vlan(PACKET), VLAN)),
    "QinQ": (1, ethernet(vlan(vlan(PACKET6, IP6), VLAN), QINQ)),
    "0x9100": (1, ethernet(vlan(vlan(PACKET), VLAN), 0x9100)),
    "MPLS": (1, ethernet(b"\0\1\0\x40" + b"\0\2\1\x40" + PACKET, MPLS)),
    "PPPoE": (1, ethernet(b"\x11\0\0\1\0\x40\0\x21" + PACKET, PPPOE)),
    "PPPoE with IPv6": (1, ethernet(b"\x11\0\0\1\0\x40\0\x57" + PACKET6, PPPOE)),
    "SNAP": (1, ethernet(SNAP + struct.pack(">H", IP4) + PACKET, 8 + len(PACKET))),
    "cooked v1": (113, bytes(14) + struct.pack(">H", IP4) + PACKET),
    "cooked v1 with VLAN": (113, bytes(14) + struct.pack(">H", VLAN) + vlan(PACKET)),
    "cooked v2": (276, struct.pack(">H", IP6) + bytes(18) + PACKET6),
    "raw": (101, PACKET),
    "raw 6": (101, PACKET6),
    "raw of OpenBSD": (12, PACKET),
    "raw of BSD/OS": (14, PACKET),
    "IPv4": (228, PACKET),
    "IPv6": (229, PACKET6),
    "null, little-endian": (0, b"\x02\0\0\0" + PACKET),
    "null, big-endian": (0, b"\0\0\0\x1e" + PACKET6),
    "loop": (108, b"\0\0\0\x18" + PACKET6),
    "PPP": (9, b"\xff\x03\0\x21" + PACKET),
    "PPP, short type": (9, b"\x21" + PACKET),
    "PPP in HDLC": (50, b"\xff\x03\0\x57" + PACKET6),
    "PPPoE frames": (51, b"\x11\0\0\1\0\x40\0\x21" + PACKET),
    "Cisco HDLC": (104, b"\x0f\0" + struct.pack(">H", IP4) + PACKET),
    "802.11": (105, DATA_FRAME + SNAP + struct.pack(">H", IP4) + PACKET),
    "802.11 QoS with radiotap": (
        127, struct.pack("<BBHI", 0, 0, 8, 0) + QOS_FRAME + SNAP + struct.pack(">H", IP6) + PACKET6
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_link_layers_lead_to_the_same_packet(tmp_path: Path, name: str) -> None:
    link_type, frame = LINKS[name]
    row = decode_frame(tmp_path, frame, link_type).row
    assert (row["port_a"], row["port_b"], row["protocol"]) == (1, 2, UDP)
    assert row["octets"] == len(PACKET) if row["ip_version"] == 4 else len(PACKET6)


@pytest.mark.parametrize("name", LINKS)
def test_a_link_layer_cut_anywhere_is_counted_once(tmp_path: Path, name: str) -> None:
    link_type, frame = LINKS[name]
    path = tmp_path / "cuts.pcap"
    path.write_bytes(pcap([Record(frame[:n], original=len(frame)) for n in range(len(frame) + 1)], link_type))
    decoded = decode_file(path)
    assert decoded.counters.read == len(frame) + 1
    # Whatever holds the ports is accepted: the UDP header's second half and the payload may be missing.
    assert decoded.counters.accepted == 1 + 30 + 4
    assert {row["octets"] for row in decoded.rows} == {
        len(PACKET) if decoded.rows[0]["ip_version"] == 4 else len(PACKET6)
    }


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (1, ethernet(bytes(40), 0x0806)),
        (1, ethernet(b"\x42\x42\x03" + bytes(40), 38)),
        (1, ethernet(b"\0\1\1\x40" + bytes(40), MPLS)),
        (1, ethernet(b"\x11\0\0\1\0\x40\xc0\x21" + bytes(30), PPPOE)),
        (0, b"\x07\0\0\0" + PACKET),
        (105, b"\x80\0" + bytes(60)),
        (105, b"\x08\x41" + bytes(60)),
        (1, ethernet(b"\0\7\x81\0" * 9 + PACKET, VLAN)),
    ],
    ids=["ARP", "spanning tree", "pseudowire", "PPP LCP", "AF_NS", "beacon", "encrypted", "tags without end"],
)
def test_other_protocols_are_no_ip(tmp_path: Path, link_type: int, frame: bytes) -> None:
    assert skipped(tmp_path, frame, link_type) == "not_ip"


def test_snap_length_is_not_the_length(tmp_path: Path) -> None:
    whole = ethernet(ip4(tcp(payload=b"x" * 1000)))
    row = decode_frame(tmp_path, whole[:54], original=len(whole)).row
    assert (row["octets"], row["header_octets"], row["tcp_flags"], row["tcp_window"]) == (1040, 40, ACK, 1024)


def test_a_tcp_header_cut_short_keeps_what_there_is(tmp_path: Path) -> None:
    whole = ethernet(ip4(tcp(options=b"\x01" * 12)))
    rows = [decode_frame(tmp_path, whole[: 34 + n], original=len(whole)).row for n in (4, 13, 14, 16, 32)]
    assert [(r["header_octets"], r["tcp_flags"], r["tcp_window"]) for r in rows] == [
        (40, 0, 0),
        (52, 0, 0),
        (52, ACK, 0),
        (52, ACK, 1024),
        (52, ACK, 1024),
    ]


def test_padding_of_short_ethernet_frames_does_not_count(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(udp(1, 2), UDP)) + bytes(18)).row
    assert (row["octets"], row["header_octets"]) == (28, 28)


def test_padding_is_not_read_as_ports(tmp_path: Path) -> None:
    assert skipped(tmp_path, ethernet(ip4(b"", UDP)) + bytes(26)) == "truncated_transport"


def test_segmentation_offload_takes_the_length_of_the_frame(tmp_path: Path) -> None:
    four = ethernet(ip4(tcp(payload=b"x" * 100), total_length=0))
    six = ethernet(vlan(ip6(tcp(payload=b"x" * 100), payload_length=0), IP6), VLAN)
    assert decode_frame(tmp_path, four[:60], original=70_014).row["octets"] == 70_000
    assert decode_frame(tmp_path, six[:80], original=70_018).row["octets"] == 70_000


def test_ip_options_are_header(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(udp(1, 2, b"abc"), UDP, options=b"\x01" * 40))).row
    assert (row["header_octets"], row["octets"], row["port_b"]) == (68, 71, 2)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ethernet(b""), "truncated_ip"),
        (ethernet(ip4(tcp())[:19]), "truncated_ip"),
        (ethernet(ip6(tcp())[:39], IP6), "truncated_ip"),
        (ethernet(b"\x55" + bytes(40)), "bad_ip_header"),
        (ethernet(b"\x44" + ip4(tcp())[1:]), "bad_ip_header"),
        (ethernet(ip4(tcp(), total_length=19)), "bad_ip_header"),
        (ethernet(ip4(tcp())[:23]), "truncated_transport"),
        (ethernet(ip4(icmp(8)[:1], ICMP)), "truncated_transport"),
        (ethernet(ip6(extension(b"", 60)[:7], 0), IP6), "truncated_ip"),
        (ethernet(ip6(extension(b"", 60) * 20, 60), IP6), "bad_ip_header"),
        (b"\0" * 13, "truncated_link"),
    ],
)
def test_broken_headers_have_their_reason(tmp_path: Path, frame: bytes, reason: str) -> None:
    assert skipped(tmp_path, frame) == reason


def test_ip6_extension_headers_are_walked(tmp_path: Path) -> None:
    authentication = struct.pack(">BB", 43, 4) + bytes(22)
    chain = extension(authentication + extension(extension(tcp(), TCP, 1), 60), 51)
    row = decode_frame(tmp_path, ethernet(ip6(chain, 0), IP6)).row
    assert (row["protocol"], row["port_a"], row["port_b"]) == (TCP, 40000, 443)
    assert row["header_octets"] == 40 + 8 + 24 + 8 + 16 + 20


@pytest.mark.parametrize(
    ("protocol", "after"), [(50, b"\1" * 20), (59, b""), (135, b"\x3b\0" + bytes(6)), (89, b"")]
)
def test_other_protocols_go_by_number(tmp_path: Path, protocol: int, after: bytes) -> None:
    for frame in (ethernet(ip4(after, protocol)), ethernet(ip6(after, protocol), IP6)):
        row = decode_frame(tmp_path, frame).row
        assert (row["protocol"], row["port_a"], row["port_b"]) == (protocol, 0, 0)
        assert row["header_octets"] == (20 if row["ip_version"] == 4 else 40)


def test_header_is_never_longer_than_the_packet(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(icmp(8)[:4], ICMP))).row
    assert (row["octets"], row["header_octets"]) == (24, 24)


@pytest.mark.parametrize(
    ("frame", "ports", "direction"),
    [
        (ethernet(ip4(icmp(8), ICMP)), (8, 0), 0),
        (ethernet(ip4(icmp(0), ICMP, "10.0.0.2", "10.0.0.1")), (8, 0), 1),
        (ethernet(ip4(icmp(3, 1), ICMP, "10.0.0.2", "10.0.0.1")), (3, 1), 0),
        (ethernet(ip6(icmp(135), ICMP6), IP6), (135, 136), 0),
        (ethernet(ip6(icmp(136), ICMP6, "2001:db8::2", "2001:db8::1"), IP6), (135, 136), 1),
        (ethernet(ip6(icmp(1, 4), ICMP6, "2001:db8::2", "2001:db8::1"), IP6), (1, 4), 0),
    ],
)
def test_icmp_types_stand_for_ports(
    tmp_path: Path, frame: bytes, ports: tuple[int, int], direction: int
) -> None:
    row = decode_frame(tmp_path, frame).row
    assert ((row["port_a"], row["port_b"]), row["direction"]) == (ports, direction)


def test_sctp(tmp_path: Path) -> None:
    row = decode_frame(tmp_path, ethernet(ip4(sctp(payload=b"1234"), SCTP))).row
    assert (row["port_a"], row["port_b"], row["header_octets"]) == (5000, 6000, 32)


def fragments4(identification: int = 1) -> list[bytes]:
    first = ethernet(ip4(udp(7, 9, b"x" * 1472), UDP, fragment=0x2000, identification=identification))
    second = ethernet(ip4(b"y" * 100, UDP, fragment=185, identification=identification))
    return [first, second]


def fragments6() -> list[bytes]:
    # The second fragment tells the type of the first header after the fragment header, not UDP.
    first = ethernet(ip6(fragment6(extension(udp(7, 9, b"x" * 40), UDP), 60, 0, True), 44), IP6)
    return [first, ethernet(ip6(fragment6(b"y" * 10, 60, 56, False), 44), IP6)]


@pytest.mark.parametrize("build", [fragments4, fragments6])
def test_fragments_take_the_ports_of_the_first(tmp_path: Path, build: Any) -> None:
    path = tmp_path / "fragments.pcap"
    path.write_bytes(pcap([Record(frame) for frame in build()]))
    decoded = decode_file(path)
    assert [(r["protocol"], r["port_a"], r["port_b"]) for r in decoded.rows] == [(UDP, 7, 9)] * 2
    assert decoded.rows[0]["flow_hash"] == decoded.rows[1]["flow_hash"]
    assert decoded.counters.fragments_without_first == 0
    four = decoded.rows[1]["ip_version"] == 4
    assert decoded.rows[1]["header_octets"] == (20 if four else 48)


def test_a_fragment_whose_first_is_unknown_or_too_old_has_no_ports(tmp_path: Path) -> None:
    first, second = fragments4()
    (_, other) = fragments4(identification=2)
    start, path = 1_700_000_000_000_000_000, tmp_path / "fragments.pcap"
    frames = [(first, 0), (other, 1), (second, 30), (second, 31)]
    path.write_bytes(pcap([Record(frame, start + s * 1_000_000_000) for frame, s in frames]))
    decoded = decode_file(path)
    assert [r["port_b"] for r in decoded.rows] == [9, 0, 9, 0]
    assert decoded.counters.fragments_without_first == 2


def test_the_last_fragment_of_icmp_stays_in_its_flow(tmp_path: Path) -> None:
    path = tmp_path / "fragments.pcap"
    first = ethernet(ip4(icmp(0, payload=b"x" * 1472), ICMP, "10.0.0.2", "10.0.0.1", fragment=0x2000))
    second = ethernet(ip4(b"y" * 8, ICMP, "10.0.0.2", "10.0.0.1", fragment=185))
    path.write_bytes(pcap([Record(first), Record(second)]))
    rows = decode_file(path).rows
    assert rows[0]["flow_hash"] == rows[1]["flow_hash"]
    assert [row["direction"] for row in rows] == [1, 1]
