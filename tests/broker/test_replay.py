from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from producers.config import BusSettings, ReplaySettings
from producers.labels import COLUMNS
from producers.probes import parse_probes
from producers.replay import ReplayOptions, run_replay
from schemas.codec import decode
from schemas.packets import PacketBatch, decode_packet_batch
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

PARTITIONS = 4
PACKETS = 6000
FLOWS = 40
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def capture(path: Path, packets: int = PACKETS, step_ns: int = MS) -> str:
    """Write a capture whose packet i is of flow ``i % FLOWS`` and at START_NS + i steps."""
    path.write_bytes(
        pcap(
            [
                Record(ethernet(ip4(udp(1000 + i % FLOWS), protocol=17)), START_NS + i * step_ns)
                for i in range(packets)
            ],
            nanoseconds=True,
        )
    )
    return str(path)


def read_all(bootstrap: str, topic: str, partition: int) -> list[bytes]:
    """Return what a partition holds; nothing may come any more."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "log_level": 0})
    where = TopicPartition(topic, partition, 0)
    end = consumer.get_watermark_offsets(where, timeout=20)[1]
    consumer.assign([where])
    out: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(out) < end and time.monotonic() < deadline:
        for message in consumer.consume(500, timeout=0.2):
            assert message.error() is None
            out.append(message.value())
    consumer.close()
    assert len(out) == end
    return out


def test_every_packet_arrives_in_order_with_gapless_sequences(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    topics = make_topics(PARTITIONS, "packets", "labels")
    cost = make_topics(1, "telemetry.cost")["telemetry.cost"]
    labels = tmp_path / "truth.csv"
    labels.write_text(
        ",".join(COLUMNS) + f"\n10.0.0.2,10.0.0.1,53,1003,17,{START_NS + 3 * MS},{START_NS + 9 * MS},dns\n"
    )
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    options = ReplayOptions(
        speed=None, loops=3, labels=str(labels), settings=ReplaySettings(rebase="keep", batch_packets=100)
    )
    summary = run_replay(parse_probes([capture(tmp_path / "a.pcap")], ["gate"]), bus, options)

    assert summary.packets_acked == summary.total("packets_accepted") == 3 * PACKETS
    assert summary.messages_acked == summary.messages_sent
    arrived = 0
    for partition in range(PARTITIONS):
        batches = [decode_packet_batch(value) for value in read_all(bootstrap, topics["packets"], partition)]
        arrived += _check_partition(batches, partition)
    assert arrived == 3 * PACKETS
    found = [decode("Label", v) for p in range(PARTITIONS) for v in read_all(bootstrap, topics["labels"], p)]
    assert [label["label"] for label in found] == ["dns"] * 3
    assert len({label["flow_id"] for label in found}) == 3
    costs = [decode("CostTelemetry", value) for value in read_all(bootstrap, cost, 0)]
    assert sum(record["items_out"] for record in costs) == 3 * PACKETS


def _check_partition(batches: list[PacketBatch], partition: int) -> int:
    """Check one partition's batches against the capture; return how many packets they hold."""
    epochs = sorted({batch.epoch for batch in batches})
    assert len(epochs) == 3
    assert [b.epoch for b in batches] == sorted(b.epoch for b in batches)
    for loop, epoch in enumerate(epochs):
        mine = [batch for batch in batches if batch.epoch == epoch]
        assert [b.sequence for b in mine] == list(range(len(mine)))
        assert [b.end_of_stream for b in mine] == [False] * (len(mine) - 1) + [True]
        assert {(b.partition, b.partitions, b.probe) for b in mine} == {(partition, PARTITIONS, "gate")}
        moved_ns = loop * PACKETS * MS
        rows = np.concatenate([b.columns["time_ns"] for b in mine]) - START_NS - moved_ns
        ports = np.concatenate([b.columns["port_a"][b.columns["flow_index"]] for b in mine])
        assert np.array_equal(rows, np.sort(rows))
        assert np.array_equal(rows // MS % FLOWS + 1000, ports)
    return sum(batch.packets for batch in batches)


def test_a_paced_replay_takes_as_long_as_its_capture(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    make_topics(PARTITIONS, "packets")
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    path = capture(tmp_path / "a.pcap", packets=500)
    options = ReplayOptions(speed=1.0, settings=ReplaySettings(telemetry_interval_s=0))
    summary = run_replay(parse_probes([path]), bus, options)
    assert summary.packets_acked == 500
    assert summary.duration_s >= 0.499
