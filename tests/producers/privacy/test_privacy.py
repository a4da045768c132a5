"""From captures through decoder and batcher: nothing that leaves tells a true address, and all of it fits together."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import numpy as np
import pytest

from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.config import BusSettings, PayloadSettings, ReplaySettings
from producers.decoder.kernel import writable
from producers.followed import FlowRules
from producers.labels import COLUMNS, read_labels
from producers.names.finder import NameFinder
from producers.payloads.stream import PayloadStream
from producers.privacy import addresses as addresses_module
from producers.privacy.addresses import AddressAnonymiser
from producers.privacy.config import PrivacySettings
from producers.privacy.cryptopan import CryptoPan
from producers.privacy.keys import Key
from producers.privacy.privacy import Privacy
from producers.privacy.texts import anonymised
from producers.probes import parse_probes
from producers.replay import ReplayOptions, run_replay
from producers.sources.capture import open_capture
from schemas.community_id import address_bytes, address_text
from schemas.errors import SettingsError
from schemas.flow_key import hash_five_tuple
from schemas.packets import Extra, NameSource, split_names
from schemas.payloads import PayloadBatch
from tests.producers.fakes import FakeSink
from tests.producers.frames import (
    ICMP,
    IP6,
    SCTP,
    UDP,
    Record,
    ethernet,
    extension,
    icmp,
    ip4,
    ip6,
    pcap,
    sctp,
    tcp,
    udp,
)
from tests.producers.names.hellos import a, dns
from tests.producers.probe.fakes import FakeSource, LiveManualClock
from tests.producers.synthetic import packets

KEY = Key(bytes(range(32)))
HIDE = PrivacySettings(anonymise=True)
PAN = CryptoPan(KEY)


def write(tmp_path: Path, *frames: bytes) -> str:
    path = tmp_path / "a.pcap"
    path.write_bytes(
        pcap([Record(f, 1_700_000_000_000_000_000 + i) for i, f in enumerate(frames)], nanoseconds=True)
    )
    return str(path)


def blocks(path: str, privacy: Privacy | None, extra: Extra | None = None) -> list[PacketColumns]:
    with open_capture(path, privacy=privacy) as capture:
        found = capture.blocks(1024, extra or Extra())
        return [PacketColumns._make(column.copy() for column in block) for block in found]


def ends(columns: PacketColumns, row: int) -> list[tuple[str, int]]:
    """Return (address, port) of who sent a packet and who got it."""
    version = int(columns.ip_version[row])
    both = [
        (address_text(columns.address_a[row].tobytes(), version), int(columns.port_a[row])),
        (address_text(columns.address_b[row].tobytes(), version), int(columns.port_b[row])),
    ]
    return both[::-1] if columns.direction[row] else both


def reference(columns: PacketColumns) -> list[tuple[object, ...]]:
    """Return what becomes of rows, from the true ones: who sent to whom, and the hash of that."""
    out: list[tuple[object, ...]] = []
    for row in range(columns.packets):
        (source, port), (destination, other) = ends(columns, row)
        source, destination = anonymised(PAN, source), anonymised(PAN, destination)
        out.append((source, port, destination, other))
    return out


def check(true: PacketColumns, hidden: PacketColumns) -> None:
    found = []
    for row in range(hidden.packets):
        (source, port), (destination, other) = ends(hidden, row)
        found.append((source, port, destination, other))
        low, high = hidden.address_a[row], hidden.address_b[row]
        assert hidden.flow_hash[row] == hash_five_tuple(
            low, high, hidden.port_a[row], hidden.port_b[row], hidden.protocol[row], hidden.ip_version[row]
        )
        one_way = hidden.protocol[row] == ICMP and hidden.port_a[row] not in (0, 8)
        if not one_way:
            ends_of = (low.tobytes(), int(hidden.port_a[row])), (high.tobytes(), int(hidden.port_b[row]))
            assert ends_of[0] <= ends_of[1]
    assert found == reference(true)


def test_rows_are_anonymised_ordered_and_hashed_anew() -> None:
    true = packets(600, flows=80, seed=5)
    true.address_b[::7] = true.address_a[::7]  # both ends alike
    true.address_a[::11] = 0
    hidden = PacketColumns._make(column.copy() for column in true)
    addresses = AddressAnonymiser(PAN)
    rows = writable(hidden)
    for start, stop in ((0, 100), (100, 101), (101, 600)):
        addresses.rows(rows, start, stop)
    # The reference takes ends in any order.
    check(true, hidden)
    again = PacketColumns._make(column.copy() for column in true)
    addresses.rows(writable(again), 0, 600)
    assert all((getattr(again, name) == getattr(hidden, name)).all() for name in hidden._fields)


def test_addresses_that_share_places_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses_module, "_FOUR", 4)
    monkeypatch.setattr(addresses_module, "_SIX", 2)
    addresses = AddressAnonymiser(PAN)
    for seed in range(6):
        true = packets(200, flows=30, seed=seed % 3)
        hidden = PacketColumns._make(column.copy() for column in true)
        addresses.rows(writable(hidden), 0, 200)
        check(true, hidden)


def test_known_addresses_are_not_computed_again() -> None:
    addresses = AddressAnonymiser(PAN)
    for _ in range(2):
        addresses.rows(writable(packets(500, flows=20, seed=1)), 0, 500)
        assert addresses.computed <= 40


def test_a_capture_with_all_kinds_of_packets(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ethernet(ip4(tcp(40000, 443))),
        ethernet(ip4(tcp(443, 40000), source="10.0.0.2", destination="10.0.0.1")),
        ethernet(ip6(udp(), UDP), IP6),
        ethernet(ip4(icmp(8), ICMP)),
        ethernet(ip4(icmp(0), ICMP, "10.0.0.2", "10.0.0.1")),
        ethernet(ip4(icmp(3, 1, ip4(udp())), ICMP, "10.0.0.9", "10.0.0.1")),
        ethernet(ip4(icmp(3, 1, ip4(udp())), ICMP, "10.0.0.1", "10.0.0.9")),
        ethernet(ip4(sctp(), SCTP, "0.0.0.0", "255.255.255.255")),
        ethernet(ip4(b"x" * 30, 47)),
    )
    (true,), (hidden,) = blocks(path, None), blocks(path, Privacy(HIDE, KEY))
    check(true, hidden)
    same = set(PacketColumns._fields) - {
        "address_a",
        "address_b",
        "port_a",
        "port_b",
        "direction",
        "flow_hash",
    }
    assert all((getattr(true, name) == getattr(hidden, name)).all() for name in same)
    assert hidden.flow_hash[0] == hidden.flow_hash[1] and hidden.flow_hash[3] == hidden.flow_hash[4]


SOURCE, DESTINATION = "203.0.113.77", "198.51.100.88"
NEEDLES = [ipaddress.ip_address(text).packed for text in (SOURCE, DESTINATION)]


def _frames() -> list[bytes]:
    route = b"\x07\x0f\x10" + NEEDLES[0] + NEEDLES[1] + bytes(4) + b"\x00"
    quoted = ip4(udp(), UDP, DESTINATION, SOURCE)
    six = "2001:db8::cb00:714d", "2001:db8::c633:6458"
    return [
        ethernet(ip4(tcp(payload=NEEDLES[0] * 4), 6, SOURCE, DESTINATION)),
        ethernet(ip4(tcp(), 6, SOURCE, DESTINATION, options=route)),
        ethernet(ip4(icmp(3, 1, quoted), ICMP, DESTINATION, SOURCE)),
        ethernet(ip4(quoted, 4, SOURCE, DESTINATION)),  # a tunnel
        ethernet(ip4(udp(payload=NEEDLES[1]), UDP, SOURCE, DESTINATION)),
        ethernet(ip6(extension(b"", UDP, 1)[:8] + NEEDLES[0] + NEEDLES[1] + udp(), 43, *six), IP6),
        ethernet(ip6(udp(payload=NEEDLES[0]), UDP, *six), IP6),
    ]  # fmt: skip


def _with_checksums(frame: bytes) -> bytes:
    """Return a frame whose checksum fields hold something."""
    raw = bytearray(frame)
    if raw[14] >> 4 == 4:
        raw[24:26] = b"\xde\xad"
        header = (raw[14] & 15) * 4
        where = {6: 16, 17: 6, 1: 2}.get(raw[23])
        if where is not None:
            raw[14 + header + where : 14 + header + where + 2] = b"\xde\xad"
    elif raw[20] == UDP:
        raw[60:62] = b"\xde\xad"
    return bytes(raw)


def test_heads_tell_no_address_and_no_checksum(tmp_path: Path) -> None:
    path = write(tmp_path, *map(_with_checksums, _frames()))
    extra = Extra(head_packets=8, head_octets=128)
    (true,) = blocks(path, None, extra)
    assert any(needle in true.heads.tobytes() for needle in NEEDLES) and b"\xde\xad" in true.heads.tobytes()
    (hidden,) = blocks(path, Privacy(HIDE, KEY), extra)
    raw = hidden.heads.tobytes()
    assert not any(needle in raw for needle in [*NEEDLES, b"\xde\xad"])
    assert (hidden.head_length <= hidden.header_octets).all()
    # What says nothing of addresses is still there: ports, flags, lengths.
    assert (hidden.heads[0, :10] == true.heads[0, :10]).all() and (
        hidden.heads[0, 20:36] == true.heads[0, 20:36]
    ).all()
    (asked,) = blocks(path, Privacy(HIDE.model_copy(update={"payload": True}), KEY), extra)
    assert (asked.head_length == true.head_length).all() and asked.heads[0, 40:44].tobytes() == NEEDLES[0]


def _names(path: str, privacy: Privacy | None) -> list[tuple[str, NameSource, str]]:
    """Return (name, source, server's address) of the named flows."""
    batcher, finder, out = Batcher(1, names=True), NameFinder(privacy), []
    with open_capture(path, names=finder, privacy=privacy) as capture:
        for block in capture.blocks(4):
            assert not list(batcher.add(block, 0, finder.take()))
    for _, columns in batcher.flush():
        names = split_names(columns["names"])
        for packet, index, source in zip(
            columns["name_packet"], columns["name_index"], columns["name_source"], strict=True
        ):
            flow = columns["flow_index"][packet]
            reverse = columns["direction"][packet]
            server = columns["address_a" if reverse else "address_b"][flow]
            out.append((names[index], NameSource(source), address_text(server.tobytes(), 4)))
    return out


def _dns_and_flow(tmp_path: Path) -> str:
    answer = dns("www.example.org", a(b"\xc0\x0c", DESTINATION))
    return write(
        tmp_path,
        ethernet(ip4(struct.pack(">HHHH", 53, 5000, 8 + len(answer), 0) + answer, UDP, "10.0.0.53", SOURCE)),
        ethernet(ip4(tcp(40000, 443, flags=2), 6, SOURCE, DESTINATION)),
        *[ethernet(ip4(tcp(40000, 443), 6, SOURCE, DESTINATION))] * 5,
    )


def test_dns_answers_name_anonymised_flows(tmp_path: Path) -> None:
    path = _dns_and_flow(tmp_path)
    assert _names(path, None) == [("www.example.org", NameSource.DNS, DESTINATION)]
    hidden = _names(path, Privacy(HIDE, KEY))
    assert hidden == [("www.example.org", NameSource.DNS, anonymised(PAN, DESTINATION))]


def test_names_are_hashed_domain_by_domain(tmp_path: Path) -> None:
    privacy = Privacy(PrivacySettings(names="hash"), KEY)
    ((name, source, server),) = _names(_dns_and_flow(tmp_path), privacy)
    assert (source, server) == (NameSource.DNS, DESTINATION)
    assert privacy.hasher is not None
    assert len(name.split(".")) == 3 and "example" not in name
    assert name == privacy.hasher.hashed("www.example.org")
    assert name.endswith("." + privacy.hasher.hashed("example.org"))
    other = Privacy(PrivacySettings(names="hash"), Key(bytes(32)))
    assert other.hasher is not None and other.hasher.hashed("www.example.org") != name
    longest = privacy.hasher.hashed(".".join("abcdefghijklmn"))
    assert len(longest) <= 253 and longest.endswith(privacy.hasher.hashed("m.n"))


def test_labels_find_the_flows_of_a_probe_that_anonymises(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text(f"{','.join(COLUMNS)}\n{SOURCE},{DESTINATION},40000,443,6,1,2,web\n")
    path = write(tmp_path, ethernet(ip4(tcp(), 6, SOURCE, DESTINATION)))
    privacy = Privacy(HIDE, KEY)
    (hidden,) = blocks(path, privacy)
    assert read_labels(str(truth), privacy).flow_hash[0] == hidden.flow_hash[0]
    assert read_labels(str(truth)).flow_hash[0] != hidden.flow_hash[0]


def test_payloads_belong_to_the_anonymised_flows(tmp_path: Path) -> None:
    path = write(tmp_path, *[ethernet(ip4(tcp(payload=b"x" * 50), 6, SOURCE, DESTINATION))] * 3)
    out: list[PayloadBatch] = []
    stream = PayloadStream("p", PayloadSettings(mode="first"), FlowRules(), 4, 1, out.append, replayed=True)
    with open_capture(path, privacy=Privacy(HIDE, KEY)) as capture:
        for block in capture.blocks(tap=stream.sampler):
            stream.add("", block, (0, block.packets), 0, 0)
            flow_hash = int(block.flow_hash[0])
    stream.flush()
    (batch,) = [b for b in out if len(b.columns["time_ns"])]
    assert int(batch.columns["flow_id"][0]) >> 48 == flow_hash >> 48
    assert NEEDLES[0] not in batch.encode() and NEEDLES[1] not in batch.encode()


def test_payloads_must_be_asked_for_twice() -> None:
    options = ReplayOptions(payloads=PayloadSettings(mode="first"), privacy=HIDE)
    with pytest.raises(SettingsError, match=r"privacy\.payload"):
        run_replay(parse_probes(["-"]), BusSettings(), options)


def test_a_replay_anonymises_and_says_how_many_addresses_were_new(tmp_path: Path) -> None:
    from producers.replay import Replay

    path = write(tmp_path, *[ethernet(ip4(tcp(), 6, SOURCE, DESTINATION))] * 3)
    sink = FakeSink()
    options = ReplayOptions(speed=None, settings=ReplaySettings(rebase="keep"), privacy=HIDE)
    replay = Replay(
        parse_probes([path]), BusSettings(partitions=2), options, sink, privacy=Privacy(HIDE, KEY)
    )
    replay.run()
    assert replay.meter.totals().counters["addresses_computed"] == 2
    raw = b"".join(message.value for message in sink.messages)
    assert not any(needle in raw for needle in NEEDLES)
    (batch,) = [b for b in sink.batches() if b.packets]
    found = {address_text(batch.columns[f"address_{end}"][0].tobytes(), 4) for end in "ab"}
    assert found == {anonymised(PAN, SOURCE), anonymised(PAN, DESTINATION)}
    assert {address_bytes(text)[1] for text in found} == {4}
    assert np.count_nonzero(batch.columns["direction"]) in (0, 3)


def test_a_live_source_is_told_to_hide() -> None:
    from producers.probe.config import ProbeSettings
    from producers.probe.run import Probe, ProbeOptions

    clock, privacy = LiveManualClock(), Privacy(HIDE, KEY)
    source = FakeSource(clock, [(0, packets(10))])
    options = ProbeOptions("gate", ProbeSettings(interfaces=("eth0",), names=True), privacy=privacy)
    probe = Probe([source], BusSettings(partitions=2), options, clock=clock)
    assert source.reading.privacy is privacy and source.reading.names is not None
    probe.attach(FakeSink(clock))
    assert "addresses_computed" in probe.run().events
