"""``spool``: Kafka is stopped for a while under a steady rate of packets, and every one of them gets there, in order.

Packets of many flows are batched and sent as a live probe does, behind a spool. At the end the topic is read, and what
a flows agent would drop as a repetition is dropped.
"""

from __future__ import annotations

import resource
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from flowgauge.bench.results import Result
from infra.broker.kafka import KafkaBroker
from infra.broker.topics import create_topics
from producers.batcher import Batcher
from producers.columns import PacketColumns, allocate
from producers.config import BusSettings, topic_name
from producers.packet_stream import Origin, PacketStream
from producers.publisher import Publisher
from producers.sequence import Sequencer
from producers.spool.config import SpoolSettings
from producers.spool.open import open_spool
from producers.spool.sink import SpoolSink
from producers.summary import ProbeSummary
from schemas.errors import BusError
from schemas.flow_key import UDP, hash_five_tuple
from schemas.packets import decode_packet_batch
from schemas.topics import PACKETS

AWAY_S, RATE = 60.0, 100_000
FLOWS = 1000
PARTITIONS = 2
BEFORE_S, AFTER_S = 5.0, 10.0
_STEP_S = 0.01
_LINGER_NS = 10_000_000
_DRAIN_TIMEOUT_S = 120.0
_START_NS = 1_700_000_000_000_000_000


@dataclass
class Run:
    """What a run showed."""

    sent: int = 0
    behind_s: float = 0.0
    """Most that the sender was behind its rate."""
    most_bytes: int = 0
    """Most on disk."""
    caught_up_s: float = 0.0
    """From when the broker answered again until nothing was on disk any more, packets coming in all the while."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    rss_before_mb: float = 0.0
    rss_mb: float = 0.0


def spool(bus: BusSettings, rate: int, away_s: float, on_step: Callable[[str], None]) -> Result:
    """Stop the broker for ``away_s`` seconds at ``rate`` packets/s.

    Raises:
        BusError: no Java, or the broker did not come back.
    """
    on_step("starting Apache Kafka")
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    with KafkaBroker() as broker, tempfile.TemporaryDirectory(prefix="flowgauge-bench-") as folder:
        bus = bus.model_copy(
            update={"bootstrap": broker.bootstrap, "topic_prefix": prefix, "partitions": PARTITIONS}
        )
        topic = topic_name(bus, PACKETS)
        create_topics(broker.bootstrap, {topic: (PARTITIONS, {})})
        told: list[str] = []
        sink = open_spool(SpoolSettings(path=str(Path(folder) / "spool")), bus, told.append)
        run = Run()
        _send(run, sink, bus, broker, rate, away_s, on_step)
        on_step("reading the topic")
        arrived = _read(broker.bootstrap, topic)
        sink.close()
    counts = dict(sink.counts)
    complete = arrived["packets"] == run.sent == sink.acked_items and arrived["in_order"]
    return Result(
        "spool",
        counts["drained_packets"] / run.caught_up_s if run.caught_up_s else 0.0,
        "packets/s",
        details={
            "accounted": complete,
            "packets": run.sent,
            "packets_per_s": rate,
            "away_s": away_s,
            "seconds": round(run.seconds, 2),
            "caught_up_s": round(run.caught_up_s, 2),
            "spool_mb": round(run.most_bytes / 1e6, 1),
            "cpu_s": round(run.cpu_s, 2),
            "rss_mb": [round(run.rss_before_mb), round(run.rss_mb)],
            "sender_behind_s": round(run.behind_s, 3),
            "arrived": arrived,
            "counts": counts,
            "told": told[:5],
        },
    )


def _send(
    run: Run, sink: SpoolSink, bus: BusSettings, broker: KafkaBroker, rate: int, away_s: float,
    on_step: Callable[[str], None],
) -> None:  # fmt: skip
    """Send at the rate, the broker being stopped and started meanwhile, until all is acknowledged."""
    publisher = Publisher("probe", bus, sink, time.time_ns, 15.0)
    stream = PacketStream(
        Origin("bench", replayed=False), Batcher(PARTITIONS), Sequencer(PARTITIONS, time.time_ns()),
        ProbeSummary([], packets_by_partition=[0] * PARTITIONS, batches_by_partition=[0] * PARTITIONS),
        lambda batch, since_ns: publisher.send(batch),
    )  # fmt: skip
    make = _packets(max(1, round(rate * _STEP_S)), rate)
    began_s, began_cpu_ns = time.monotonic(), time.process_time_ns()
    stage, back_s, end_s = 0, 0.0, 0.0
    while stage < 3 or time.monotonic() < end_s or sink.spooled_bytes:
        now_s = time.monotonic() - began_s
        if stage == 0 and now_s >= BEFORE_S:
            on_step(f"the broker is away for {away_s:g} s")
            run.rss_before_mb = _rss_mb()
            broker.kill()
            stage = 1
        elif stage == 1 and now_s >= BEFORE_S + away_s:
            broker.launch()
            stage = 2
        elif stage == 2 and broker.answers():
            on_step("the broker is back")
            back_s, stage = time.monotonic(), 3
            end_s = back_s + AFTER_S
        if stage == 3 and run.caught_up_s == 0 and not sink.spooled_bytes:
            run.caught_up_s = time.monotonic() - back_s
        if back_s and time.monotonic() > back_s + _DRAIN_TIMEOUT_S:
            raise BusError(f"the spool was not empty {_DRAIN_TIMEOUT_S:.0f} s after the broker was back")
        due = (time.monotonic() - began_s) * rate
        while run.sent < due:
            columns = next(make)
            stream.take(columns, (0, columns.packets), time.monotonic_ns())
            run.sent += columns.packets
        stream.flush(time.monotonic_ns() - _LINGER_NS)
        sink.check()
        run.most_bytes = max(run.most_bytes, sink.spooled_bytes)
        behind_s = time.monotonic() - began_s - run.sent / rate
        run.behind_s = max(run.behind_s, behind_s)
        time.sleep(max(0.0, min(_STEP_S, -behind_s)))
    stream.flush()
    sink.flush(_DRAIN_TIMEOUT_S)
    run.seconds = time.monotonic() - began_s
    run.cpu_s = (time.process_time_ns() - began_cpu_ns) / 1e9
    run.rss_mb = _rss_mb()


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _packets(rows: int, rate: int) -> Iterator[PacketColumns]:
    """Yield blocks of packets of FLOWS flows in turn, their times going on at the rate."""
    columns = allocate(rows)
    addresses: NDArray[Any] = np.zeros((FLOWS, 16), np.uint8)
    addresses[:, :4] = np.arange(FLOWS, dtype=">u4")[:, None].view(np.uint8).reshape(FLOWS, 4)
    addresses[:, 0] = 10
    other = np.zeros(16, np.uint8)
    other[:4] = (192, 0, 2, 1)
    hashes = np.array([hash_five_tuple(a, other, 5000, 53, UDP, 4) for a in addresses], np.uint64)
    columns.address_b[:] = other
    columns.port_a[:], columns.port_b[:], columns.protocol[:], columns.ip_version[:] = 5000, 53, UDP, 4
    columns.octets[:], columns.header_octets[:], columns.ttl[:] = 500, 28, 64
    first = 0
    while True:
        numbers = np.arange(first, first + rows)
        flows = numbers % FLOWS
        columns.address_a[:], columns.flow_hash[:] = addresses[flows], hashes[flows]
        columns.time_ns[:] = _START_NS + numbers * (1_000_000_000 // rate)
        yield columns
        first += rows


def _read(bootstrap: str, topic: str) -> dict[str, Any]:
    """Read the topic; return how many packets it holds, each once, and whether those of each flow are in order."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "log_level": 0}
    )
    found: dict[str, Any] = {"packets": 0, "repeated": 0, "missing_batches": 0, "in_order": True}
    for partition in range(PARTITIONS):
        where = TopicPartition(topic, partition, 0)
        end = consumer.get_watermark_offsets(where, timeout=30)[1]
        consumer.assign([where])
        last, newest, read = -1, np.zeros(FLOWS, np.int64), 0
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while read < end and time.monotonic() < deadline:
            for message in consumer.consume(500, 1.0):
                batch = decode_packet_batch(message.value())
                read += 1
                if batch.sequence <= last:
                    found["repeated"] += batch.packets
                    continue
                found["missing_batches"] += batch.sequence - last - 1
                last = batch.sequence
                found["packets"] += batch.packets
                # The last octets of the address are the flow's number.
                raw = batch.columns["address_a"][:, :4].astype(np.int64)
                flows = (raw[:, 2] * 256 + raw[:, 3])[batch.columns["flow_index"]]
                found["in_order"] &= _in_order(flows, batch.columns["time_ns"], newest)
    consumer.close()
    return found


def _in_order(flows: NDArray[np.int64], times: NDArray[np.int64], newest: NDArray[np.int64]) -> bool:
    """Return whether each flow's times go up, from its newest on, which is brought up to date."""
    order = np.argsort(flows, kind="stable")
    flow, time_ns = flows[order], times[order]
    same = flow[1:] == flow[:-1]
    firsts = np.concatenate(([True], ~same))
    fine = bool(
        (time_ns[1:][same] > time_ns[:-1][same]).all() and (time_ns[firsts] > newest[flow[firsts]]).all()
    )
    newest[flow] = time_ns  # of several the last stays
    return fine
