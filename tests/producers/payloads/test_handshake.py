"""Which packets are marked as of a handshake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producers.payloads.handshake import HANDSHAKE, NEITHER, TLS_DATA, TLS_HANDSHAKE, kind_of
from schemas.flow_key import TCP, UDP
from tests.producers.frames import Record, ethernet, ip4, pcap, tcp, udp
from tests.producers.payloads.sampled import sampled

ACK, SYN_ACK = 16, 18
REST = bytes(20)
CID = bytes(8)


@pytest.mark.parametrize(
    ("protocol", "octets", "flags", "kind"),
    [
        (TCP, b"", SYN_ACK, HANDSHAKE),
        (TCP, b"\x17\x03\x03" + REST, SYN_ACK, HANDSHAKE),
        (TCP, b"\x14\x03\x03" + REST, ACK, TLS_HANDSHAKE),
        (TCP, b"\x15\x03\x03" + REST, ACK, TLS_HANDSHAKE),
        (TCP, b"\x16\x03\x01" + REST, ACK, TLS_HANDSHAKE),
        (TCP, b"\x16\x03\x04", ACK, TLS_HANDSHAKE),
        (TCP, b"\x17\x03\x03" + REST, ACK, TLS_DATA),
        (TCP, b"\x16\x03", ACK, NEITHER),
        (TCP, b"\x16\x03\x05" + REST, ACK, NEITHER),
        (TCP, b"\x16\x02\x00" + REST, ACK, NEITHER),
        (TCP, b"\x13\x03\x03" + REST, ACK, NEITHER),
        (TCP, b"\x18\x03\x03" + REST, ACK, NEITHER),
        (TCP, b"GET / HTTP/1.1", ACK, NEITHER),
        (TCP, b"", ACK, NEITHER),
        (UDP, b"\xc3\x00\x00\x00\x01" + CID, 0, HANDSHAKE),
        (UDP, b"\xc3\x6b\x33\x43\xcf" + CID, 0, HANDSHAKE),
        (UDP, b"\xc3\xff\x00\x00\x1d" + CID, 0, HANDSHAKE),
        (UDP, b"\xc3\xfa\xce\xb0\x02" + CID, 0, HANDSHAKE),
        (UDP, b"\xc3Q050" + CID, 0, HANDSHAKE),
        (UDP, b"\xc3T051" + CID, 0, HANDSHAKE),
        (UDP, b"\x0d" + CID + b"Q043", 0, HANDSHAKE),
        (UDP, b"\x0d" + CID + b"Q04", 0, NEITHER),
        (UDP, b"\x0c" + CID + b"Q043", 0, NEITHER),
        (UDP, b"\xc3\x00\x00\x00\x03" + CID, 0, NEITHER),
        (UDP, b"\x43\x00\x00\x00\x01" + CID, 0, NEITHER),
        (UDP, b"\x16\xfe\xfd" + REST, 0, HANDSHAKE),
        (UDP, b"\x17\xfe\xfd" + REST, 0, NEITHER),
        (UDP, b"\x16\xfe\xfd", 0, NEITHER),
        (47, b"\x16\x03\x01" + REST, ACK, NEITHER),
    ],
)
def test_first_octets_tell_a_handshake(protocol: int, octets: bytes, flags: int, kind: int) -> None:
    raw = np.frombuffer(bytes(5) + octets + b"\xff" * 8, np.uint8)
    assert kind_of(raw, 5, 5 + len(octets), protocol, flags) == kind


def test_no_octet_behind_the_captured_ones_is_looked_at() -> None:
    """What follows in memory would make a handshake of each."""
    behind = b"\x16\x03\x01" + b"\x16\x03\x01" * 8
    for length in range(3):
        raw = np.frombuffer(behind, np.uint8)
        assert kind_of(raw, 0, length, TCP, ACK) == NEITHER
    quic = np.frombuffer(b"\xc3\0\0\0\1" + bytes(20), np.uint8)
    for length in range(13):
        assert kind_of(quic, 0, length, UDP, 0) == NEITHER


def marks(tmp_path: Path, steps: list[tuple[bool, bytes]]) -> list[Any]:
    """Return the marks of a TCP flow's segments; True: from the server."""
    records = [
        Record(ethernet(ip4(tcp(*((443, 4000) if back else (4000, 443)), body),
                            *((6, "10.0.0.2", "10.0.0.1") if back else (6, "10.0.0.1", "10.0.0.2")))),
               1_700_000_000_000_000_000 + i * 1_000_000)
        for i, (back, body) in enumerate(steps)
    ]  # fmt: skip
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap(records, nanoseconds=True))
    return [row.handshake for row in sampled(path).rows]


def test_segments_between_a_hello_and_the_first_data_are_of_the_handshake(tmp_path: Path) -> None:
    """A certificate's later segments begin like nothing; each direction is followed for itself."""
    hello, data, more = b"\x16\x03\x01" + REST, b"\x17\x03\x03" + REST, b"\x99" * 40
    steps = [
        (False, hello, 1), (True, hello, 1), (True, more, 1), (True, more, 1), (False, data, 0), (True, more, 1),
        (True, data, 0), (True, more, 0), (False, more, 0), (True, hello, 1), (True, more, 0),
    ]  # fmt: skip
    assert marks(tmp_path, [(back, body) for back, body, _ in steps]) == [mark for *_, mark in steps]


def test_what_begins_in_the_midst_is_no_handshake(tmp_path: Path) -> None:
    assert marks(tmp_path, [(False, b"\x99" * 40), (True, b"\x17\x03\x03" + REST)]) == [0, 0]


def test_a_server_hello_over_udp_marks_its_packet_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    bodies = [b"\xc3\0\0\0\1" + bytes(12) + b"\1", b"\x43" + bytes(20) + b"\1"]
    path.write_bytes(pcap([Record(ethernet(ip4(udp(4000, 443, body), protocol=17))) for body in bodies]))
    assert [row.handshake for row in sampled(path).rows] == [1, 0]
