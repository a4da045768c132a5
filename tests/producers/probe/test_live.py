"""Live capture on a veth pair of its own: equal to a replay of the same frames, filters, tags, drops, ups and downs."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.lab.network import can_make_namespaces
from infra.lab.wire import SEEING, SENDING, Wire, entered
from producers.probe.config import ProbeSettings
from producers.probe.ring.sockets import CaptureError, RingSize
from producers.probe.ring.source import RingOptions, RingSource
from producers.probe.source import Reading
from producers.sources.capture import open_capture
from schemas.errors import SettingsError
from tests.producers.frames import UDP, VLAN, ethernet, ip4, mixed_records, pcap, rows_of, udp, vlan
from tests.waiting import wait_until

pytestmark = pytest.mark.root
SIZE = RingSize(2 << 20, 64 << 10, 2)
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    why = can_make_namespaces()
    if why is not None:
        pytest.skip(why)
    with Wire() as made:
        yield made


@pytest.fixture
def sending(wire: Wire) -> Iterator[socket.socket]:
    with entered(wire.sender):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        out.bind((SENDING, 0))
    with out:
        yield out


def opened(wire: Wire, **options: object) -> RingSource:
    with entered(wire.probe):
        source = RingSource(SEEING, RingOptions(SIZE, **options))  # type: ignore[arg-type]
    source.start(Reading(4096))
    return source


def rows_until(source: RingSource, count: int) -> list[dict[str, object]]:
    """Return what the source gives until it has given ``count`` packets."""
    rows: list[dict[str, object]] = []

    def enough() -> bool:
        while (block := source.read()) is not None:
            rows.extend(rows_of(block.columns))
        return len(rows) >= count

    wait_until(enough, LIMIT_S)
    return rows


def test_live_packets_are_those_of_a_capture_of_the_same_frames(
    wire: Wire, sending: socket.socket, tmp_path: Path
) -> None:
    records = [r for r in mixed_records(200) if len(r.data) <= 1514 and r.original is None]
    records = [r._replace(data=r.data.ljust(60, b"\0")) for r in records]
    path = tmp_path / "same.pcap"
    source, before_ns = opened(wire), time.time_ns()
    for record in records:
        sending.send(record.data)
    path.write_bytes(pcap(records))
    with open_capture(str(path)) as capture:
        expected = [row for block in capture.blocks() for row in rows_of(block)]
        skipped = capture.counters.skipped
    found = rows_until(source, len(expected))
    times = np.array([row.pop("time_ns") for row in found])
    assert (np.diff(times) >= 0).all() and before_ns < times[0] <= times[-1] < time.time_ns()
    for row in expected:
        del row["time_ns"]
    assert found == expected
    frames = source.frames()
    assert frames["read"] == len(records) and frames["kernel_dropped"] == 0
    assert {reason: count for reason, count in frames.items() if reason in skipped} == skipped
    source.close()


def test_only_what_passes_the_filter_is_seen_and_another_takes_over(
    wire: Wire, sending: socket.socket
) -> None:
    try:
        source = opened(wire, filter="udp port 53")
    except SettingsError as error:
        pytest.skip(str(error))
    frames = [ethernet(ip4(udp(40_000, port), UDP)) for port in (53, 54, 53)]
    for frame in frames:
        sending.send(frame)
    assert len(rows_until(source, 2)) == 2
    source.reload(ProbeSettings(filter="udp port 54", snap_octets=128))
    for frame in frames:
        sending.send(frame)
    rows_until(source, 1)
    assert source.frames()["read"] == 3
    source.close()


def test_a_tag_does_not_hide_a_packet_and_is_counted(wire: Wire, sending: socket.socket) -> None:
    source = opened(wire)
    sending.send(ethernet(vlan(ip4(udp(), UDP)), VLAN))
    rows_until(source, 1)
    assert source.events()["vlan_tagged"] == 1
    source.close()


def test_a_ring_that_is_full_drops_and_counts(wire: Wire, sending: socket.socket) -> None:
    with entered(wire.probe):
        source = RingSource(SEEING, RingOptions(RingSize(2 * 64 << 10, 64 << 10, 2)))
    source.start(Reading(4096))
    frame = ethernet(ip4(udp(payload=bytes(1400)), UDP))
    for _ in range(1000):
        sending.send(frame)
    source.tick()
    dropped = source.frames()["kernel_dropped"]
    assert dropped > 0
    rows_until(source, 1000 - dropped)
    source.tick()
    assert source.frames()["read"] == 1000
    source.close()


def test_an_interface_that_goes_and_comes_back_is_captured_again(wire: Wire) -> None:
    source = opened(wire)
    try:
        with entered(wire.probe):
            for state in ("down", "up"):
                wire.turn(state)
                source.tick()
        assert source.events()["interface_down"] == 1
        wire.cut()
        with entered(wire.probe):
            source.tick()
        assert source.events()["interface_gone"] == 1 and source.gauges() == {f"up_{SEEING}": 0.0}
        wire.connect()
        with entered(wire.probe):
            source.tick()
        with entered(wire.sender), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
            out.bind((SENDING, 0))
            wait_until(lambda: _is_sent(out), LIMIT_S)
        rows_until(source, 1)
        assert source.events()["interface_returned"] == 1
    finally:
        source.close()


def _is_sent(out: socket.socket) -> bool:
    try:
        out.send(ethernet(ip4(udp(), UDP)))
    except OSError:
        return False
    return True


def test_what_cannot_be_captured_is_said(wire: Wire) -> None:
    with (
        entered(wire.probe),
        pytest.raises(CaptureError, match="interface nothere: there is none of this name"),
    ):
        RingSource("nothere", RingOptions(SIZE))


def test_two_sockets_of_a_group_share_by_flow(wire: Wire, sending: socket.socket) -> None:
    sources = [opened(wire, group=4711) for _ in range(2)]
    for number in range(200):
        sending.send(ethernet(ip4(udp(1000 + number % 20), UDP)))
    flows: list[set[object]] = []

    def all_read() -> bool:
        for number, source in enumerate(sources):
            while (block := source.read()) is not None:
                flows[number] |= set(block.columns.flow_hash.tolist())
        return sum(source.frames()["read"] for source in sources) == 200

    flows = [set(), set()]
    wait_until(all_read, LIMIT_S)
    assert len(flows[0] | flows[1]) == 20 and not flows[0] & flows[1] and flows[0] and flows[1]
    for source in sources:
        source.close()
