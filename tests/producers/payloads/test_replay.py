"""Payloads of a replay: the rows that reach the bus, against a plain parser, and against the flows agent's ids."""

from __future__ import annotations

import gzip
import ipaddress
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flowgauge.labelling import our_flows
from flowgauge.messages import payload_records
from producers.config import BusSettings, PayloadSettings, ReplaySettings
from producers.probes import parse_probes
from producers.replay import Replay, ReplayOptions
from producers.summary import ReplaySummary
from schemas.codec import decode
from schemas.flow_key import parse_flow_id, partition_of
from schemas.payloads import PayloadBatch, decode_payload_batch
from streams.config import StreamsSettings
from tests.producers.fakes import FakeSink, ManualClock
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

PARTITIONS = 4
START_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def replayed(
    captures: list[str],
    payloads: dict[str, Any],
    *,
    loops: int = 1,
    speed: float | None = None,
    names: tuple[str, ...] = ("offline",),
    **settings: Any,
) -> tuple[list[PayloadBatch], ReplaySummary, FakeSink]:
    clock = ManualClock()
    sink = FakeSink(clock)
    told = {"rebase": "keep", **settings}
    options = ReplayOptions(
        speed, loops, settings=ReplaySettings.model_validate(told), payloads=PayloadSettings(**payloads)
    )
    run = Replay(
        parse_probes(captures, names), BusSettings(partitions=PARTITIONS), options, sink, clock=clock
    )
    summary = run.run()
    batches = []
    for message in sink.messages:
        if message.topic == "payloads":
            batch = decode_payload_batch(message.value)
            assert batch.partition == message.partition
            batches.append(batch)
    return batches, summary, sink


class Row(NamedTuple):
    time_ns: int
    source: str
    destination: str
    ports: tuple[int, int]
    payload: bytes


def rows_of(batches: list[PayloadBatch]) -> list[Row]:
    out = []
    for batch in batches:
        for record, row in zip(payload_records(batch), range(batch.rows), strict=True):
            ports = (record["source_port"], record["destination_port"])
            out.append(
                Row(record["time_ns"], record["source_address"], record["destination_address"], ports,
                    batch.payload(row))
            )  # fmt: skip
    return sorted(out)


def parsed(raw: bytes) -> Iterator[Row]:
    """Yield what a plain parser finds in an Ethernet pcap: TCP and UDP with payload, whole, over IPv4 or IPv6."""
    tick = 1 if raw[:4] == b"\x4d\x3c\xb2\xa1" else 1000
    at = 24
    while at < len(raw):
        seconds, fraction, captured, _ = struct.unpack_from("<IIII", raw, at)
        frame = raw[at + 16 : at + 16 + captured]
        at += 16 + captured
        kind = int.from_bytes(frame[12:14], "big")
        ip = frame[14:]
        if kind == 0x0800:
            head, total, protocol = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big"), ip[9]
            source, destination = ip[12:16], ip[16:20]
        elif kind == 0x86DD:
            head, total, protocol = 40, 40 + int.from_bytes(ip[4:6], "big"), ip[6]
            source, destination = ip[8:24], ip[24:40]
        else:
            continue
        payload = ip[head:total]
        wanted = min(total - head, 1480)
        if protocol not in (6, 17) or len(payload) < min(wanted, 20):
            continue
        transport = (payload[12] >> 4) * 4 if protocol == 6 else 8
        if total - head <= max(transport, 20) or len(payload) < wanted:
            continue
        yield Row(
            seconds * SECOND + fraction * tick,
            str(ipaddress.ip_address(source)),
            str(ipaddress.ip_address(destination)),
            (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")),
            (bytes(20) + payload[20:1480]).ljust(1480, b"\0"),
        )


def test_the_demo_captures_payloads_are_those_of_a_plain_parser(demo_capture: Path) -> None:
    batches, summary, _ = replayed([str(demo_capture)], {"mode": "sample", "one_in": 1})
    wanted = sorted(parsed(gzip.decompress(demo_capture.read_bytes())))
    rows, known = rows_of(batches), set(wanted)
    icmp = summary.payloads["rows"] - len(wanted)
    assert [row for row in rows if row.ports != (0, 0) and row in known] == wanted
    assert 0 <= icmp == len(rows) - len(wanted)
    counts = summary.payloads
    assert counts["packets"] == summary.total("packets_accepted")
    assert counts["packets"] == sum(
        counts[name] for name in ("rows", "empty", "fragments", "truncated", "not_chosen")
    )
    assert counts["sent"] == counts["rows"] == sum(batch.rows for batch in batches)


def test_flow_ids_are_those_of_the_flow_records(demo_capture: Path) -> None:
    batches, _, _ = replayed([str(demo_capture)], {"mode": "first", "first_packets": 2})
    flows, _ = our_flows([str(demo_capture)], StreamsSettings(), PARTITIONS, "offline")
    ours = {flow.flow_id: flow for flow in flows}
    taken = Counter[int]()
    for batch in batches:
        for record in payload_records(batch):
            flow = ours[parse_flow_id(record["flow_id"])]
            assert flow.start_ns == record["start_ns"]
            assert flow.start_ns <= record["time_ns"] <= flow.end_ns
            assert partition_of(np.uint64(flow.flow_id), PARTITIONS) == batch.partition
            taken[flow.flow_id] += 1
    assert len(taken) > 300
    assert max(taken.values()) == 2


def capture(path: Path, times_ns: list[int], flows: int = 3) -> str:
    records = [
        Record(
            ethernet(ip4(udp(1000 + i % flows, 53, bytes([i % 255 + 1]) * (i % 50)), protocol=17)),
            START_NS + t,
        )
        for i, t in enumerate(times_ns)
    ]
    path.write_bytes(pcap(records, nanoseconds=True))
    return str(path)


def test_a_flow_begins_anew_where_the_flows_agent_says_so(tmp_path: Path) -> None:
    """Idle timeout, active timeout, and a clock that steps back: each gives the flow another id."""
    steps = [0, 1, 2, 3, 70, 71, 72, 73, *range(100, 2200, 30), 10, 11, 12, 80]
    path = capture(tmp_path / "a.pcap", [second * SECOND for second in steps], flows=2)
    batches, _, _ = replayed([path], {"mode": "sample", "one_in": 1})
    flows, _ = our_flows([path], StreamsSettings(), PARTITIONS, "offline")
    found = {parse_flow_id(r["flow_id"]) for batch in batches for r in payload_records(batch)}
    assert found <= {flow.flow_id for flow in flows}
    assert len(found) >= 6


def test_every_loop_is_an_epoch_with_flows_of_its_own_and_ends_every_partition(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [i * 1_000_000 for i in range(2000)])
    batches, summary, _ = replayed([path], {"mode": "first", "first_packets": 4}, loops=3, rebase="now")
    assert summary.payloads["sent"] == 3 * 3 * 4
    ids = {(batch.epoch, flow) for batch in batches for flow in batch.columns["flow_id"].tolist()}
    assert len({flow for _, flow in ids}) == 9
    for epoch in {batch.epoch for batch in batches}:
        for p in range(PARTITIONS):
            mine = [batch for batch in batches if (batch.epoch, batch.partition) == (epoch, p)]
            assert [b.sequence for b in mine] == list(range(len(mine)))
            assert [b.end_of_stream for b in mine] == [False] * (len(mine) - 1) + [True]


def test_how_blocks_are_cut_and_paced_does_not_change_the_rows(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [i * 1_000_000 for i in range(3000)], flows=40)
    options = {"mode": "sample", "one_in": 3}
    batches, summary, _ = replayed([path], options)
    assert 600 < summary.payloads["sent"] < 1400
    assert max(batch.rows for batch in batches) <= 512
    for how in ({"block_packets": 7}, {"speed": 2.0}, {"block_packets": 100, "speed": 1.0}):
        again, _, _ = replayed([path], options, **how)
        assert rows_of(again) == rows_of(batches)


def test_two_probes_see_flows_of_their_own(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [i * 1_000_000 for i in range(100)])
    batches, summary, _ = replayed([path, path], {"mode": "first"}, names=("a", "b"))
    assert {batch.probe for batch in batches} == {"a", "b"}
    ids = {
        probe: {f for b in batches if b.probe == probe for f in b.columns["flow_id"].tolist()}
        for probe in "ab"
    }
    assert len(ids["a"]) == len(ids["b"]) == 3
    assert not ids["a"] & ids["b"]
    assert summary.payloads["sent"] == 18


def test_off_means_that_nothing_is_sent_and_telemetry_has_one_stage(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [0, 1, 2])
    for mode, stages in (("off", {"replay"}), ("first", {"replay", "payloads"})):
        batches, summary, sink = replayed([path], {"mode": mode})
        costs = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
        assert {cost["stage"] for cost in costs} == stages
        assert bool(batches) == bool(summary.payloads) == (mode != "off")
        assert ("payloads" in summary.as_dict()) == (mode != "off")


@pytest.mark.parametrize("octets", [21, 64, 1480])
def test_no_octet_beyond_the_setting_and_none_of_the_first_twenty_is_sent(
    tmp_path: Path, octets: int
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([Record(ethernet(ip4(udp(1, 2, b"\xff" * 1400), protocol=17)), START_NS)]))
    batches, _, _ = replayed([str(path)], {"mode": "first", "octets": octets})
    (row,) = rows_of(batches)
    end = min(octets, 1408)
    assert row.payload == (bytes(20) + b"\xff" * (end - 20)).ljust(octets, b"\0")
