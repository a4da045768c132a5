"""``flowgauge tail`` and ``topics`` against the embedded broker."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from flowgauge.cli import invoke
from flowgauge.messages import clock, duration, line_of, records_of, short
from infra.broker.embedded import EmbeddedBroker
from schemas.codec import encode
from schemas.errors import BusError, SettingsError
from schemas.packets import COLUMNS, PacketBatch, empty_columns
from schemas.topics import TOPICS
from streams.config import DEFAULT_REPRESENTATIONS, StreamsSettings
from streams.partition import Partition
from streams.plan import Plan
from tests.flowgauge.batches import feature_batch
from tests.streams.made import FLOWS, SECOND, START_NS, Made, batch

LABEL = {
    "flow_id": "abc0000000000001",
    "probe": "p",
    "label": "dns",
    "source": "a file",
    "start_ns": 1_700_000_000_000_000_000,
    "published_time_ns": 5,
}
LETTER = {
    "topic": "packets",
    "partition": 1,
    "offset": 7,
    "stage": "flows",
    "reason": "not a Flowgauge message",
    "time_ns": 1_700_000_000_123_456_789,
    "key": b"k",
    "message_size": 3,
    "message": b"abc",
}


def packet_batch() -> PacketBatch:
    columns: dict[str, Any] = {
        c.name: np.ones((1 if c.rows == "flow_count" else 2, *c.dtype.shape), dtype=c.dtype.base)
        for c in COLUMNS
    }
    columns["address_a"][0, :4] = (10, 0, 0, 1)
    columns["address_b"][0, :4] = (10, 0, 0, 2)
    columns["port_a"][:], columns["port_b"][:] = 53, 4000
    columns["protocol"][:], columns["ip_version"][:] = 17, 4
    columns["flow_index"][:] = 0
    columns["direction"][:] = (1, 0)
    columns["time_ns"][:] = (1_700_000_000_000_000_000, 1_700_000_000_250_000_000)
    columns["octets"][:] = (60, 200)
    return PacketBatch("p", 1, 0, 4, 9, 5, columns)


def produce(broker: EmbeddedBroker, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def tail(broker: EmbeddedBroker, topic: str, *arguments: str) -> int:
    return invoke(["tail", topic, "--bus", broker.bootstrap, "--no-follow", *arguments]) or 0


@pytest.fixture
def labels(embedded: EmbeddedBroker) -> EmbeddedBroker:
    embedded.create_topic("labels", 2)
    return embedded


def test_malformed_messages_are_told_and_passed(
    labels: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    good = encode("Label", LABEL)
    produce(labels, "labels", good, b"poison", good[:-3], b"", good)
    assert tail(labels, "labels") == 0
    out, err = capsys.readouterr()
    line = "2023-11-14 22:13:20.000 abc0000000000001 probe p is dns (a file)"
    assert out == f"labels[0]@0 {line}\nlabels[0]@4 {line}\n"
    told = err.splitlines()
    assert [text.split(": cannot be decoded: ")[0] for text in told] == [
        "flowgauge: labels[0]@1",
        "flowgauge: labels[0]@2",
        "flowgauge: labels[0]@3",
    ]
    assert "not a Flowgauge message: 6 bytes" in told[0]


def test_json_lines_with_limit(labels: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    produce(labels, "labels", *[encode("Label", LABEL)] * 5, partition=1)
    assert tail(labels, "labels", "--json", "--limit", "2") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    place = {"kafka_topic": "labels", "kafka_partition": 1, "kafka_offset": 1}
    assert rows[1:] == [{**place, "schema": "Label", "schema_version": 1, **LABEL}]


def test_a_record_with_a_place_of_its_own_keeps_that_of_its_message_too(
    embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"partition": 3, "offset": 41, "layout": "x", "part": 0, "parts": 1, "digest": b"", "body": b"s"}
    for topic, value in (
        ("dead-letters", encode("DeadLetter", LETTER)),
        ("flows.state", encode("FlowState", state)),
    ):
        embedded.create_topic(topic, 1)
        produce(embedded, topic, value)
        assert tail(embedded, topic, "--json") == 0
    letter, state = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    own = ("topic", "partition", "offset")
    place = tuple(f"kafka_{name}" for name in own)
    assert [letter[name] for name in (*place, *own)] == ["dead-letters", 0, 0, "packets", 1, 7]
    assert [state[name] for name in (*place, *own[1:])] == ["flows.state", 0, 0, 3, 41]


def test_from_the_end_there_is_nothing_to_wait_for(
    labels: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(labels, "labels", encode("Label", LABEL))
    assert tail(labels, "labels", "--from", "end") == 0
    assert capsys.readouterr().out == ""


def test_a_missing_topic_is_named_and_not_created(labels: EmbeddedBroker) -> None:
    for _ in range(2):
        with pytest.raises(BusError, match="no topic lables; there is labels"):
            tail(labels, "lables")


def test_the_prefix_goes_before_the_projects_topics(
    embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.create_topic("lab.labels", 1)
    produce(embedded, "lab.labels", encode("Label", LABEL))
    assert tail(embedded, "labels", "--set", "bus.topic_prefix=lab.") == 0
    assert capsys.readouterr().out.startswith("lab.labels[0]@0 ")
    assert tail(embedded, "lab.labels") == 0


def test_topics_are_compared_with_the_settings(
    embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    for topic in TOPICS:
        embedded.create_topic(topic.name, topic.partitions(3))
    arguments = ["topics", "--bus", embedded.bootstrap, "--set", "bus.connect_timeout_s=1", "--set"]
    assert invoke([*arguments, "bus.partitions=3", "--json"]) in (0, None)
    out, err = capsys.readouterr()
    assert err == "flowgauge: the broker does not tell the settings of topics: they are not compared\n"
    states = json.loads(out)["topics"]
    assert {s["name"]: s["partitions"] for s in states} == {t.name: t.partitions(3) for t in TOPICS}
    assert invoke([*arguments, "bus.partitions=4"]) == 1
    assert "topic packets has 3 partitions, bus.partitions asks for 4" in capsys.readouterr().err
    assert invoke([*arguments, "bus.topic_prefix=x."]) == 1
    assert "topic x.packets is missing" in capsys.readouterr().err


def test_a_packet_batch_as_a_summary_and_as_packets() -> None:
    data = packet_batch().encode()
    name, (summary,) = records_of(data)
    assert line_of(name, summary) == (
        "probe p sequence 9: 2 packets, 1 flows, 260 octets, "
        "2023-11-14 22:13:20.000 to 2023-11-14 22:13:20.250"
    )
    _, packets = records_of(data, rows=True)
    assert [(p["source_address"], p["source_port"], p["octets"]) for p in packets] == [
        ("10.0.0.2", 4000, 60),
        ("10.0.0.1", 53, 200),
    ]
    assert "10.0.0.2:4000 → 10.0.0.1:53 udp 60 octets" in line_of(name, packets[0])


def test_an_end_of_stream_mark() -> None:
    name, (record,) = records_of(
        PacketBatch("p", 1, 0, 4, 9, 5, empty_columns(), end_of_stream=True).encode()
    )
    assert line_of(name, record).endswith("- to - end of stream")


def test_a_feature_batch_row_by_row() -> None:
    name, records = records_of(feature_batch(3).encode())
    assert records[0]["features"] == {"mean": 0.1, "odd name, %s": None}
    assert line_of(name, records[1]) == (
        "2023-11-14 22:13:25.000 flow abc0000000000001 10.0.0.1:40001 → 10.0.0.251:443 tcp depth 7 idle timeout "
        "packets 4+3 octets 2000+1099511627776 mean=0.1 odd name, %s=0.1"
    )
    assert "[2001:db8::2]:40002" in line_of(name, records[2])
    json.dumps(records)


def test_a_dead_letter_names_the_place() -> None:
    name, (record,) = records_of(encode("DeadLetter", LETTER))
    assert line_of(name, record) == (
        "2023-11-14 22:13:20.123 packets partition 1 offset 7: not a Flowgauge message "
        "(set aside by flows; 3 bytes, 616263…)"
    )


def test_costs_in_a_line() -> None:
    cost = {
        "stage": "flows", "instance": "h:1", "time_ns": 0, "interval_ns": 10**9, "unit": "packets", "items_in": 1000,
        "items_out": 10, "dropped": {"late": 2, "none": 0}, "counters": {}, "cpu_ns": 250_000, "state_bytes": 4096,
        "output_bytes": 9, "latency_p50_ns": 1_500_000, "latency_p99_ns": 2_000_000_000,
        "gauges": {"accuracy": 0.93751},
    }  # fmt: skip
    name, (record,) = records_of(encode("CostTelemetry", cost))
    assert line_of(name, record) == (
        "1970-01-01 00:00:00.000 flows in 1 s: 1000 in, 10 out (packets), cpu 250 us, 250 ns each, state 4096 B, "
        "output 9 B, latency p50 1.5 ms p99 2 s, dropped late: 2, accuracy 0.9375"
    )


def test_units() -> None:
    assert [duration(n) for n in (None, 12, 1500, 2_500_000, 3e9)] == [
        "-",
        "12 ns",
        "1.5 us",
        "2.5 ms",
        "3 s",
    ]
    assert [short(n) for n in (0, 9999, 12_345, 4_560_000, 7e9)] == ["0", "9999", "12.3 k", "4.56 M", "7 G"]
    assert clock(10**21) == f"{10**21} ns"


def test_flows_of_two_probes_are_joined(embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]) -> None:
    embedded.create_topic("features.flow", 1)
    plan = Plan(StreamsSettings(representations=DEFAULT_REPRESENTATIONS[2:]))
    values = []
    for probe, late_ns in (("north", 0), ("south", 1_250_000)):
        partition = Partition(plan, 0)
        packets = [Made(START_NS + late_ns + i * SECOND // 100, FLOWS[0], i % 2) for i in range(4)]
        made = batch(packets, probe=probe, end_of_stream=True)
        values += [rows.encode() for rows in partition.apply(made, 0, 0)]
    produce(embedded, "features.flow", values[0], b"poison", *values[1:])
    assert tail(embedded, "features.flow", "--join") == 0
    out, err = capsys.readouterr()
    assert err.startswith("flowgauge: features.flow[0]@1: cannot be decoded: ")
    (line,) = out.splitlines()
    assert line.startswith(
        "features.flow[0]@2 2023-11-14 22:13:20.123 10.0.0.1:40000 → 10.0.0.2:443 tcp at north ("
    )
    assert ", 1.25 ms later at south (" in line
    assert line.endswith("): 2+2 packets 200+200 octets, then 2+2 packets 200+200 octets")
    assert tail(embedded, "features.flow", "--join", "--json") == 0
    assert json.loads(capsys.readouterr().out)["gap_ns"] == 1_250_000
    with pytest.raises(
        SettingsError, match=r"packets has no rows of whole flows; features\.early, features\.flow has"
    ):
        tail(embedded, "packets", "--join")
