"""Kafka is stopped while packets come, and started again: every one of them gets there, in order per flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from infra.broker.kafka import KafkaBroker
from producers.batcher import Batcher
from producers.config import BusSettings
from producers.packet_stream import Origin, PacketStream
from producers.publisher import Publisher
from producers.sequence import Sequencer
from producers.spool.config import SpoolSettings
from producers.spool.open import open_spool
from producers.spool.sink import SpoolSink
from producers.summary import ProbeSummary
from schemas.packets import decode_packet_batch
from tests.broker.test_replay import read_all
from tests.producers.synthetic import packets
from tests.waiting import wait_until

PARTITIONS, BLOCK, STEP_NS = 2, 500, 1_000_000


class Feed:
    """Packets of one probe, a millisecond of event time apart."""

    def __init__(self, bus: BusSettings, sink: SpoolSink, epoch: int, sent: int = 0) -> None:
        self.sink, self.sent = sink, sent
        publisher = Publisher("probe", bus, sink, time.time_ns, 15.0)
        self.summary = ProbeSummary(
            [], packets_by_partition=[0] * PARTITIONS, batches_by_partition=[0] * PARTITIONS
        )
        self._stream = PacketStream(
            Origin("gate", replayed=False),
            Batcher(PARTITIONS, 100),
            Sequencer(PARTITIONS, epoch),
            self.summary,
            lambda batch, since_ns: publisher.send(batch),
        )

    def put(self, blocks: int) -> None:
        for _ in range(blocks):
            columns = packets(BLOCK, flows=20, seed=3, start_ns=self.sent * STEP_NS, step_ns=STEP_NS)
            self._stream.take(columns, (0, BLOCK), 0)
            self._stream.flush()
            self.sent += BLOCK
            self.sink.check()


def test_a_broker_that_is_stopped_costs_nothing(
    broker: KafkaBroker, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    topic = make_topics(PARTITIONS, "packets")["packets"]
    bus = BusSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    spool = SpoolSettings(path=str(tmp_path / "spool"), after_s=0.2, memory_kbytes=1024)
    told: list[str] = []
    sink = open_spool(spool, bus, told.append)
    feed = Feed(bus, sink, epoch=1)
    feed.put(4)
    wait_until(lambda: _turned(sink) and sink.outstanding == 0, 60)
    before = sink.counts["spooled_messages"]  # some, where the first connection took long
    broker.kill()
    try:
        feed.put(4)
        wait_until(lambda: _turned(sink) and sink.counts["spooled_messages"] > before, 60)
        feed.put(20)
        # The probe ends in the middle of it, and another one goes on where it was.
        sink.flush(0.1)
        assert sink.kept_items == sink.sent_items - sink.acked_items > 0
        sink.close()
        refusals = sink.counts["bus_refusals"]
        sink = open_spool(spool, bus, told.append)
        assert sink.counts["recovered_packets"] >= feed.sent - 4 * BLOCK
        after = Feed(bus, sink, epoch=2, sent=feed.sent)
        after.put(4)
    finally:
        broker.restart()
    after.put(4)
    wait_until(lambda: _turned(sink) and sink.outstanding == 0 and sink.queue.bytes == 0, 120)
    after.put(2)
    assert sink.flush(60) == 0 and sink.kept == sink.failed == 0
    sink.close()
    assert not list((tmp_path / "spool").glob("*.spool"))

    refusals += sink.counts["bus_refusals"]
    found = [
        time_ns
        for partition in range(PARTITIONS)
        for time_ns in _times(read_all(broker.bootstrap, topic, partition), may_repeat=refusals > 0)
    ]
    assert sorted(found) == list(range(0, after.sent * STEP_NS, STEP_NS))


def _times(messages: list[bytes], *, may_repeat: bool) -> list[int]:
    """Check that a partition holds every batch in order; return the times of its packets, each once.

    Only where the bus refused something may a batch come again: the very same, behind the first of it, so that its
    sequence number is not above the last of its epoch and the flows agent drops it.
    """
    first: dict[tuple[int, int], bytes] = {}
    times: list[int] = []
    for value in messages:
        batch = decode_packet_batch(value)
        number = (batch.epoch, batch.sequence)
        if number in first:
            assert may_repeat and first[number] == value, f"{number} comes again"
            continue
        first[number] = value
        times += batch.columns["time_ns"].tolist()
    numbers = list(first)
    assert [epoch for epoch, _ in numbers] == sorted(epoch for epoch, _ in numbers)
    for epoch in (1, 2):
        sequences = [sequence for of, sequence in numbers if of == epoch]
        assert sequences and sequences == list(range(len(sequences)))
    assert times == sorted(times)
    return times


def _turned(sink: SpoolSink) -> bool:
    sink.check()
    return True
