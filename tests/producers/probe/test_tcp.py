"""Captures over TCP: cut anywhere, lost and called again, refused where they are none."""

from __future__ import annotations

import itertools
import logging
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.probe.source import Block, LiveSource, Reading
from producers.probe.streamed import NothingYet, StreamedCapture
from producers.probe.tcp import TcpClient, TcpServer, parse_address
from schemas.errors import InputError, SettingsError
from tests.producers.frames import mixed_records, pcap, pcapng
from tests.waiting import wait_until

RECORDS = mixed_records(200)
READING = Reading(64)
CONTENTS = {"pcap": pcap(RECORDS), "pcapng": pcapng(RECORDS)}


class Pieces:
    """Bytes that come in pieces, nothing between two of them."""

    def __init__(self, pieces: list[bytes], ends: bool = True) -> None:
        self.pieces, self.ends, self.waited = pieces, ends, False

    def read(self, size: int) -> bytes:
        if not self.waited and self.pieces:
            self.waited = True
            raise NothingYet
        if not self.pieces:
            if self.ends:
                return b""
            raise NothingYet
        out, rest = self.pieces[0][:size], self.pieces[0][size:]
        self.pieces[:1] = [rest] if rest else []
        self.waited = bool(rest)
        return out


def drain(capture: StreamedCapture, pieces: Pieces) -> list[int]:
    times: list[int] = []
    for _ in range(10_000):
        found = capture.read()
        if found is not None:
            times += found[0].time_ns.tolist()
        elif capture.at_end or not (pieces.pieces or pieces.ends):
            return times
    raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def whole() -> list[int]:
    pieces = Pieces([CONTENTS["pcap"]])
    return drain(StreamedCapture("whole", pieces, READING), pieces)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(kind=st.sampled_from(sorted(CONTENTS)), cuts=st.lists(st.integers(1, 20_000), max_size=12))
def test_packets_are_the_same_however_the_bytes_are_cut(whole: list[int], kind: str, cuts: list[int]) -> None:
    content = CONTENTS[kind]
    places = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = Pieces([content[a:b] for a, b in itertools.pairwise(places)])
    capture = StreamedCapture("cut", pieces, READING)
    assert drain(capture, pieces) == whole
    assert capture.at_end and capture.warning == ""
    assert capture.frames()["read"] == len(RECORDS)


def test_what_arrived_is_given_before_the_rest(whole: list[int]) -> None:
    content = CONTENTS["pcap"]
    pieces = Pieces([content[:-7]], ends=False)
    capture = StreamedCapture("half", pieces, READING)
    assert drain(capture, pieces) == whole[:-1]
    assert not capture.at_end


@pytest.mark.parametrize(
    "content", [b"GET / HTTP/1.1\r\n\r\n" + bytes(100), pcap([], link_type=9999), b"\0" * 5]
)
def test_what_is_no_capture_is_refused(content: bytes) -> None:
    pieces = Pieces([content])
    capture = StreamedCapture("tcp://h:1", pieces, READING)
    with pytest.raises(InputError, match=r"^tcp://h:1: "):
        drain(capture, pieces)


def test_a_capture_without_a_byte_ends() -> None:
    capture = StreamedCapture("none", Pieces([]), READING)
    assert capture.read() is None and capture.at_end


@pytest.fixture
def sensor() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _ticked(source: LiveSource) -> bool:
    source.tick()
    return True


def take(source: LiveSource, packets: int) -> list[Block]:
    """Read until so many packets have come, as the probe's loop does."""
    blocks: list[Block] = []

    def enough() -> bool:
        source.tick()
        while (block := source.read()) is not None:
            # The columns are used again.
            blocks.append(
                block._replace(columns=block.columns._replace(time_ns=block.columns.time_ns.copy()))
            )
        return sum(block.columns.packets for block in blocks) >= packets

    wait_until(enough, 30)
    return blocks


def test_a_sensor_is_called_again_when_the_connection_is_lost(
    sensor: socket.socket, whole: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowgauge.probe")
    clock = Clock()
    port = sensor.getsockname()[1]
    client = TcpClient(parse_address(f"127.0.0.1:{port}", "source"), clock)
    client.start(READING)
    for _ in range(2):
        client.tick()
        connection, _ = sensor.accept()
        with connection:
            connection.sendall(CONTENTS["pcap"])
            wait_until(lambda: _ticked(client) and bool(client.files()), 10)
            assert select.select(client.files(), [], [], 10)[0]
            blocks = take(client, len(whole))
        assert [t for block in blocks for t in block.columns.time_ns.tolist()] == whole
        assert {block.point for block in blocks} == {f"tcp://127.0.0.1:{port}"}
        wait_until(lambda: client.read() is None and not client.files(), 10)
        assert client.files() == []
        clock.now_s += 1
    assert client.frames()["read"] == 2 * len(RECORDS)
    assert client.events() == {"connections": 2, "connections_closed": 2}
    sensor.close()
    wait_until(lambda: _ticked(client) and client.events()["connections_failed"] == 1, 10)
    assert "Connection refused; calling again in" in caplog.text
    clock.now_s += 0.4
    client.tick()
    assert client.events()["connections_failed"] == 1  # it waits before it calls again
    client.close()


def test_sensors_call_and_one_that_sends_rubbish_is_hung_up_on(
    whole: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    server = TcpServer(parse_address("127.0.0.1:0", "source"))
    server.start(READING)
    peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    peers[0].sendall(CONTENTS["pcap"])
    peers[1].sendall(b"SSH-2.0-OpenSSH_9.6\r\n" + bytes(64))
    peers[2].sendall(CONTENTS["pcapng"])
    blocks = take(server, 2 * len(whole))
    assert len({block.point for block in blocks}) == 2
    wait_until(lambda: (server.read() is None) and server.events()["streams_refused"] == 1, 10)
    assert server.gauges() == {f"connections_{server.name}": 2}
    assert "is neither a pcap nor a pcapng capture" in caplog.text
    with suppress(ConnectionResetError):
        assert peers[1].recv(1) == b""
    # Once stopped, what has come is still read, and nothing after it.
    peers[0].sendall(pcap(RECORDS)[24:])
    wait_until(lambda: bool(select.select(server.files(), [], [], 0)[0]), 10)
    server.stop()
    peers[0].sendall(pcap(RECORDS)[24:])
    assert sum(block.columns.packets for block in take(server, len(whole))) == len(whole)
    assert server.read() is None
    server.close()
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("text", ["host", "host:", ":80", "host:99999", "host:x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError, match="write it as host:port"):
        parse_address(text, "source")


def test_addresses_of_v6_and_taken_ports(sensor: socket.socket) -> None:
    assert str(parse_address("[::1]:80", "source")) == "[::1]:80"
    port = sensor.getsockname()[1]
    with pytest.raises(
        SettingsError, match=f"tcp-listen://127.0.0.1:{port}: cannot listen there: Address already"
    ):
        TcpServer(parse_address(f"127.0.0.1:{port}", "source"))
