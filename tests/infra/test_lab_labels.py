"""The labelling pass: frames, flows, truth, files."""

from __future__ import annotations

import csv
import struct
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from infra.lab.labels import COLUMNS, Segment, label_of, parse, split_flows, write_labels
from infra.lab.pcap import Packet, read_capture, write_capture
from schemas.errors import InputError

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP = 6, 17
S = 10**9
CLIENT, SERVER = "198.18.1.20", "198.18.0.10"


def frame(
    source: str,
    source_port: int,
    destination: str,
    destination_port: int,
    protocol: int = TCP,
    flags: int = ACK,
) -> bytes:
    """Build an Ethernet frame with a bare IP and TCP or UDP header."""
    ports = struct.pack("!HH", source_port, destination_port)
    payload = ports + (
        struct.pack("!IIBBHHH", 0, 0, 0x50, flags, 0, 0, 0) if protocol == TCP else b"\0\x08\0\0"
    )
    a, b = ip_address(source), ip_address(destination)
    if a.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + a.packed + b.packed
        return bytes(12) + b"\x86\xdd" + head + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + a.packed + b.packed
    return bytes(12) + b"\x08\x00" + head + payload


def up(time_ns: int, flags: int = ACK, port: int = 5000, protocol: int = TCP) -> Packet:
    raw = frame(CLIENT, port, SERVER, 443, protocol, flags)
    return Packet(time_ns, raw, len(raw))


def down(time_ns: int, flags: int = ACK, port: int = 5000, protocol: int = TCP) -> Packet:
    raw = frame(SERVER, 443, CLIENT, port, protocol, flags)
    return Packet(time_ns, raw, len(raw))


@pytest.mark.parametrize(("a", "b"), [(CLIENT, SERVER), ("fd00:18::1:14", "fd00:18::a")])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_parse_reads_both_ip_versions(a: str, b: str, protocol: int) -> None:
    flags = SYN if protocol == TCP else 0
    assert parse(frame(a, 5000, b, 443, protocol, SYN)) == Segment((a, 5000), (b, 443), protocol, flags)


def test_parse_minds_ipv4_options() -> None:
    raw = bytearray(frame(CLIENT, 5000, SERVER, 443, UDP))
    raw[14] = 0x46
    raw[34:34] = b"\1\1\1\1"
    segment = parse(bytes(raw))
    assert segment is not None and segment.destination == (SERVER, 443)


def test_parse_refuses_what_is_no_flow_of_ports() -> None:
    later_fragment = bytearray(frame(CLIENT, 5000, SERVER, 443, UDP))
    later_fragment[20:22] = b"\0\x10"
    icmp = bytearray(frame(CLIENT, 5000, SERVER, 443, UDP))
    icmp[23] = 1
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    whole = frame(CLIENT, 5000, SERVER, 443)
    assert [parse(bytes(raw)) for raw in (later_fragment, icmp, arp, b"", whole[:20], whole[:46])] == [
        None
    ] * 6


def test_both_directions_are_one_flow_of_its_first_sender() -> None:
    (flow,) = split_flows([down(5, protocol=UDP), up(7, protocol=UDP), down(11, protocol=UDP)])
    assert (flow.source, flow.destination) == ((SERVER, 443), (CLIENT, 5000))
    assert (flow.start_ns, flow.end_ns, flow.packets) == (5, 11, 3)


@pytest.mark.parametrize(("gap_ns", "flows"), [(60 * S - 1, 1), (60 * S, 2)])
def test_sixty_seconds_of_silence_split(gap_ns: int, flows: int) -> None:
    assert len(split_flows([up(1), down(1 + gap_ns)])) == flows


def test_syn_after_both_fins_starts_a_flow_and_the_last_ack_does_not() -> None:
    first = [up(1, SYN), down(2, SYN | ACK), up(3, FIN | ACK), down(4, FIN | ACK), up(5)]
    flows = split_flows([*first, up(6, SYN), down(7, SYN | ACK)])
    assert [(flow.start_ns, flow.end_ns, flow.packets) for flow in flows] == [(1, 5, 5), (6, 7, 2)]


def test_syn_after_reset_starts_a_flow() -> None:
    assert [f.packets for f in split_flows([up(1, SYN), down(2, RST), up(3, SYN)])] == [2, 1]


def test_syn_sent_again_and_half_closed_connections_do_not_split() -> None:
    assert len(split_flows([up(1, SYN), up(2, SYN), down(3, SYN | ACK)])) == 1
    assert len(split_flows([up(1, FIN | ACK), up(2, FIN | ACK), up(3, SYN)])) == 1


def test_label_comes_from_the_end_and_protocol_that_a_server_listens_on() -> None:
    truth = {(SERVER, 443, TCP): "web", (SERVER, 443, UDP): "quic"}
    flows = split_flows([up(1), up(2, protocol=UDP), down(3, port=6000)])
    assert [label_of(flow, truth) for flow in flows] == ["web", "quic", "web"]
    assert label_of(flows[0], {("198.18.0.11", 443, TCP): "ssh"}) is None


def test_label_file_has_one_row_per_labelled_flow(tmp_path: Path) -> None:
    flows = split_flows([up(10, SYN), down(20), up(30, protocol=UDP)])
    counts = write_labels(
        tmp_path / "x.labels.csv", flows, partial(label_of, truth={(SERVER, 443, TCP): "web"})
    )
    assert counts == {"web": 1, "": 1}
    with (tmp_path / "x.labels.csv").open() as source:
        rows = list(csv.reader(source))
    assert rows == [list(COLUMNS), [CLIENT, SERVER, "5000", "443", "6", "10", "20", "web"]]


def test_capture_file_round_trips_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    packets = [up(1_700_000_000 * S + 123_456_789), Packet(1_700_000_001 * S, b"short", 1500)]
    for name in ("a.pcap.gz", "b.pcap.gz"):
        write_capture(tmp_path / name, packets, 160)
    assert list(read_capture(tmp_path / "a.pcap.gz")) == packets
    assert (tmp_path / "a.pcap.gz").read_bytes() == (tmp_path / "b.pcap.gz").read_bytes()


def test_reader_names_a_file_that_is_no_capture_or_cut(tmp_path: Path) -> None:
    (tmp_path / "no.pcap").write_bytes(b"hello" * 20)
    with pytest.raises(InputError, match=r"no\.pcap: not a nanosecond Ethernet pcap"):
        list(read_capture(tmp_path / "no.pcap"))
    header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 160, 1)
    (tmp_path / "cut.pcap").write_bytes(header + struct.pack("<IIII", 1, 2, 60, 60) + b"x" * 10)
    with pytest.raises(InputError, match=r"cut\.pcap: cut short in a packet"):
        list(read_capture(tmp_path / "cut.pcap"))
