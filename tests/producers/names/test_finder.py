"""Names from captures: through decoder, finder and batcher, however the packets are cut."""

from __future__ import annotations

import ipaddress
import random
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.batcher import Batcher
from producers.names import finder as finder_module
from producers.names.finder import NameFinder
from producers.names.told import Told
from producers.sources.capture import open_capture
from schemas.packets import NameSource, PacketBatch, decode_packet_batch, split_names
from tests.producers.frames import TCP, UDP, Record, ethernet, ip4, pcap
from tests.producers.names.hellos import a, crypto, dns, hello, initial, records


class Event(NamedTuple):
    """An event as tests read it."""

    row: int
    name: str
    source: NameSource
    client: str = ""
    addresses: tuple[str, ...] = ()


CLIENT, SERVER, RESOLVER = "10.0.0.1", "192.0.2.1", "10.0.0.53"
QUESTION = b"\xc0\x0c"


def tcp(
    payload: bytes, sequence: int, source: str = CLIENT, destination: str = SERVER,
    ports: tuple[int, int] = (40000, 443), flags: int = 0x18,
) -> bytes:  # fmt: skip
    head = struct.pack(">HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, 0, 0x50, flags, 1000, 0, 0)
    return ethernet(ip4(head + payload, TCP, source, destination))


def udp(
    payload: bytes, source: str = CLIENT, destination: str = SERVER, ports: tuple[int, int] = (50000, 443)
) -> bytes:
    return ethernet(
        ip4(struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload, UDP, source, destination)
    )


def answer(payload: bytes) -> bytes:
    return udp(payload, RESOLVER, CLIENT, (53, 5353))


def write(path: Path, frames: Sequence[bytes]) -> Path:
    path.write_bytes(pcap([Record(f, 1_700_000_000_000_000_000 + 10**6 * n) for n, f in enumerate(frames)]))
    return path


def text_of(words: np.ndarray, version: int) -> str:  # type: ignore[type-arg]
    return str(ipaddress.ip_address(words.tobytes()[: 4 if version == 4 else 16]))


def events_in(told: Told, before: int = 0) -> list[Event]:
    out, first = [], 0
    for n, name in enumerate(told.names(0, len(told.row))):
        event = Event(int(told.row[n]) + before, name, NameSource(told.source[n]))
        if event.source == NameSource.DNS:
            last = int(told.address_stop[n])
            addresses = [text_of(told.address[i], told.version[i]) for i in range(first, last)]
            event = event._replace(client=text_of(told.client[n], 4), addresses=tuple(addresses))
            first = last
        out.append(event)
    return out


def events_of(tmp_path: Path, frames: Sequence[bytes], block: int = 8192) -> list[Event]:
    path = write(tmp_path / "made.pcap", frames)
    finder, out, before = NameFinder(), [], 0
    with open_capture(str(path), names=finder) as capture:
        for columns in capture.blocks(block):
            out += events_in(finder.take(), before)
            before += columns.packets
    return out


def names_of(
    path: Path, partitions: int = 3, most: int = 50, block: int = 64
) -> list[list[tuple[int, str, int]]]:
    """Return (time, name, source) of the named packets of each partition, by way of the wire."""
    finder, batcher = NameFinder(), Batcher(partitions, most, names=True)
    out: list[list[tuple[int, str, int]]] = [[] for _ in range(partitions)]

    def take(partition: int, views: dict) -> None:  # type: ignore[type-arg]
        made = PacketBatch("p", 1, partition, partitions, 0, 0, views).encode()
        columns = decode_packet_batch(made).columns
        if "names" not in columns:
            return
        names = split_names(columns["names"])
        seen = set()
        for packet, index, source in zip(
            columns["name_packet"], columns["name_index"], columns["name_source"], strict=True
        ):
            # A flow's first packet in each batch has what DNS told: which one that is depends on the cut.
            if source != NameSource.DNS:
                out[partition].append((int(columns["time_ns"][packet]), names[index], int(source)))
            seen.add((int(packet), int(source)))
        assert len(seen) == len(columns["name_packet"])

    with open_capture(str(path), names=finder) as capture:
        for columns in capture.blocks(block):
            for partition, views in batcher.add(columns, 0, finder.take()):
                take(partition, views)
    for partition, views in batcher.flush():
        take(partition, views)
    return out


def test_a_hello_in_segments_out_of_order(tmp_path: Path) -> None:
    data, base = records(hello(b"www.example.com", 900), (300,)), 0xFFFFFF00
    cuts = [(0, 200), (500, 800), (200, 500), (800, len(data))]
    frames = [tcp(data[x:y], base + x) for x, y in cuts]
    assert events_of(tmp_path, [*frames, tcp(b"more", base + len(data))]) == [
        Event(3, "www.example.com", NameSource.TLS_SNI)
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.integers(1, 9))
def test_any_segments_and_blocks(tmp_path_factory: pytest.TempPathFactory, seed: int, block: int) -> None:
    draw = random.Random(seed)
    data = records(hello(b"www.example.com", draw.randrange(600)))
    edges = sorted({0, len(data), *(draw.randrange(1, len(data)) for _ in range(draw.randrange(6)))})
    parts = [tcp(data[x:y], 77 + x) for x, y in pairwise(edges)]
    first, rest = parts[0], parts[1:]
    draw.shuffle(rest)
    found = events_of(tmp_path_factory.mktemp("made"), [first, *rest], block)
    assert [event.name for event in found] == ["www.example.com"]


def test_data_on_the_syn(tmp_path: Path) -> None:
    data = records(hello(b"example.com", 100))
    frames = [tcp(data[:50], 99, flags=0x02), tcp(data[50:], 150)]
    assert events_of(tmp_path, frames) == [Event(1, "example.com", NameSource.TLS_SNI)]


def test_http_and_quic_and_the_servers_side(tmp_path: Path) -> None:
    whole = hello(b"quic.example", 800)
    frames = [
        tcp(b"GET / HTTP/1.1\r\nHo", 1, ports=(40001, 80)),
        udp(initial(crypto(400, whole[400:]).ljust(1162, b"\0"))),
        udp(initial(b"\x06\0\x05hello".ljust(1162, b"\0"), b"server's"), SERVER, CLIENT, (443, 50000)),
        udp(initial(crypto(0, whole[:400]).ljust(1162, b"\0"), number=3)),
        tcp(b"st: http.example\r\n\r\n", 19, ports=(40001, 80)),
        tcp(b"GET / HTTP/1.1\r\nHost: again.example\r\n\r\n", 39, ports=(40001, 80)),
    ]
    assert events_of(tmp_path, frames) == [
        Event(3, "quic.example", NameSource.QUIC_SNI),
        Event(4, "http.example", NameSource.HTTP_HOST),
    ]


def test_ports_used_again_are_another_connection(tmp_path: Path) -> None:
    frames = []
    for name, base in ((b"one.example", 100), (b"two.example", 90_000)):
        frames += [tcp(b"", base, flags=0x02), tcp(records(hello(name)), base + 1)]
    assert [event.name for event in events_of(tmp_path, frames)] == [
        "one.example",
        "two.example",
    ]


def test_dns_over_tcp_in_pieces(tmp_path: Path) -> None:
    messages = b""
    for name in ("a.example", "b.example"):
        message = dns(name, a(QUESTION, SERVER))
        messages += struct.pack(">H", len(message)) + message
    frames = [
        tcp(messages[x : x + 30], 5 + x, RESOLVER, CLIENT, (53, 40000)) for x in range(0, len(messages), 30)
    ]
    assert [event[1:] for event in events_of(tmp_path, frames)] == [
        (name, NameSource.DNS, CLIENT, (SERVER,)) for name in ("a.example", "b.example")
    ]


def test_waiting_for_names_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder_module, "MAX_STREAMS", 10)
    part = records(hello(b"example.com"))[:40]
    path = write(tmp_path / "made.pcap", [tcp(part, 1, ports=(port, 443)) for port in range(1000, 1100)])
    finder = NameFinder()
    with open_capture(str(path), names=finder) as capture:
        for _ in capture.blocks():
            pass
    assert finder.counts == {"given_up": 90}


def test_dns_names_a_flow_from_the_answer_on(tmp_path: Path) -> None:
    told = dns("video.example", a(QUESTION, SERVER, ttl=1))
    other = dns("other.example", a(QUESTION, SERVER))
    frames = [
        udp(b"before"),
        answer(told),
        udp(b"after", ports=(50001, 9)),
        udp(other, RESOLVER, "10.0.0.2", (53, 5353)),
        udp(b"the client's own answer counts", ports=(50002, 9)),
        udp(b"a client that never asked", "10.0.0.3", SERVER, (50003, 9)),
    ]
    path = write(tmp_path / "made.pcap", frames)
    finder, batcher = NameFinder(), Batcher(1, 100, names=True)
    with open_capture(str(path), names=finder) as capture:
        for columns in capture.blocks():
            list(batcher.add(columns, 0, finder.take()))
    ((_, views),) = batcher.flush()
    names = split_names(views["names"])
    assert [
        (int(p), names[i])
        for p, i in zip(views["name_packet"], views["name_index"], strict=True)
        if int(p) not in (1, 3)  # the answers themselves: nobody asked for the resolver's address
    ] == [(2, "video.example"), (4, "video.example"), (5, "other.example")]
    assert set(views["name_source"].tolist()) == {NameSource.DNS}


def test_names_do_not_depend_on_how_packets_are_cut(tmp_path: Path) -> None:
    frames, draw = [], random.Random(5)
    for flow in range(60):
        data = records(hello(b"www%d.example.com" % flow, 300))
        pieces = [tcp(data[x : x + 250], 9 + x, ports=(1000 + flow, 443)) for x in range(0, len(data), 250)]
        frames += [(draw.random() + n, piece) for n, piece in enumerate(pieces)]
    path = write(tmp_path / "made.pcap", [frame for _, frame in sorted(frames)])
    whole = names_of(path, most=2048, block=8192)
    assert sum(map(len, whole)) == 60
    assert names_of(path, most=7, block=5) == whole


def dissected(path: Path) -> Counter[str]:
    """Return the names that tshark finds in first flights: TLS and QUIC server names, once per flow."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-Y", "tls.handshake.type == 1"]
    command += ["-e", "tcp.stream", "-e", "udp.stream", "-e", "tls.handshake.extensions_server_name"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    flows: dict[tuple[str, str], str] = {}
    for line in text.splitlines():
        stream, datagrams, names = line.split("\t")
        if names:
            flows.setdefault((stream.split(",")[0], datagrams.split(",")[0]), names.split(",")[0].lower())
    return Counter(flows.values())


def found_in(path: Path) -> Counter[str]:
    finder, names = NameFinder(), Counter[str]()
    with open_capture(str(path), names=finder) as capture:
        for _ in capture.blocks():
            names.update(
                event.name
                for event in events_in(finder.take())
                if event.source in (NameSource.TLS_SNI, NameSource.QUIC_SNI)
            )
    return names


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark to compare with")
@pytest.mark.parametrize(
    "name",
    [
        "arkime__8da52e__tls-split-client-hello.pcap.gz",
        "cisco__4d3f23__quic_reordered_frames.pcap.gz",
        "ntop__641ec0__tls_2_reasms.pcapng.gz",
        "stanford-esrg__04b58e__quic.pcap.gz",
        "stanford-esrg__78b3d5__quic_kyber.pcapng.gz",
        "zeek__745a0d__quic-multiple-initial-fragmented-crypto.pcap.gz",
        "zeek__ac5dc7__quic_win11_firefox_google.pcap.gz",
        "ntop__6aa1d0__netflix.pcap.gz",
    ],
)
def test_real_captures_have_the_names_that_tshark_sees(shared_data: Path, name: str) -> None:
    path = shared_data / "app" / name
    if not path.exists():
        pytest.skip(f"no {name}")
    assert found_in(path) == dissected(path)
