from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.broker.embedded import EmbeddedBroker
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.errors import BusError
from schemas.topics import LABELS, PACKETS, PAYLOADS


def settings(embedded: EmbeddedBroker, **more: object) -> BusSettings:
    return BusSettings.model_validate({"bootstrap": embedded.bootstrap, **more})


def read(bootstrap: str, topic: str, partition: int, count: int) -> list[tuple[bytes | None, bytes]]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "t", "fetch.wait.max.ms": 10, "log_level": 0}
    )
    consumer.assign([TopicPartition(topic, partition, 0)])
    out: list[tuple[bytes | None, bytes]] = []
    deadline = time.monotonic() + 20
    while len(out) < count and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            out.append((message.key(), message.value()))
    consumer.close()
    return out


def test_every_message_is_acknowledged_and_counted(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 3)
    producer = BusProducer(settings(embedded))
    assert producer.connect()
    for number in range(500):
        producer.produce("t", b"v%d" % number, partition=2, key="k", items=number)
    assert producer.flush(20) == 0
    producer.check()
    assert (producer.sent, producer.acked, producer.failed, producer.outstanding) == (500, 500, 0, 0)
    assert producer.acked_items == sum(range(500))
    assert producer.sent_bytes == sum(len(b"v%d" % number) for number in range(500))
    assert read(embedded.bootstrap, "t", 2, 500) == [(b"k", b"v%d" % number) for number in range(500)]


def test_a_full_queue_waits_and_drops_nothing(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 1)
    producer = BusProducer(settings(embedded, client={"queue.buffering.max.messages": "20"}))
    producer.connect()
    for _ in range(300):
        producer.produce("t", bytes(1000), partition=0, items=1)
    assert producer.full_waits > 0
    assert producer.flush(20) == 0
    assert (producer.acked, producer.acked_items) == (300, 300)


@pytest.mark.parametrize("batches", [PACKETS, PAYLOADS])
def test_batches_leave_while_other_messages_linger(embedded: EmbeddedBroker, batches: str) -> None:
    chosen = settings(embedded, linger_ms=1000, topic_prefix="p.")
    labels, batches = topic_name(chosen, LABELS), topic_name(chosen, batches)
    embedded.create_topic(labels, 1)
    embedded.create_topic(batches, 1)
    producer = BusProducer(chosen)
    for topic in (labels, batches):  # both connect
        producer.produce(topic, b"first", partition=0)
        assert producer.flush(20) == 0
    producer.produce(labels, b"waits", partition=0, items=1)
    producer.produce(batches, b"goes", partition=0, items=10)
    deadline = time.monotonic() + 20
    while not producer.acked_items and time.monotonic() < deadline:
        producer.check()
    assert (producer.acked_items, producer.outstanding) == (10, 1)
    assert producer.flush(20) == 0
    assert (producer.sent, producer.acked, producer.acked_items) == (4, 4, 11)
    assert read(embedded.bootstrap, batches, 0, 2) == [(None, b"first"), (None, b"goes")]


def test_messages_of_both_kinds_are_given_up_together() -> None:
    producer = BusProducer(BusSettings(bootstrap="127.0.0.1:9"))
    producer.produce(LABELS, b"one", partition=0, items=1)
    producer.produce(PACKETS, b"another", partition=0, items=2)
    assert producer.outstanding == 2
    producer.purge()
    assert (producer.outstanding, producer.failed, producer.failed_items) == (0, 2, 3)


def test_a_message_that_fails_is_counted_and_told_by_topic(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 2)
    producer = BusProducer(settings(embedded))
    # Queued before the partitions are known, so that librdkafka can only find out later.
    producer.produce("t", b"lost", partition=7, items=5)
    producer.produce("t", b"good", partition=1, items=3)
    assert producer.flush(20) == 0
    assert (producer.acked, producer.failed) == (1, 1)
    assert (producer.acked_items, producer.failed_items) == (3, 5)
    with pytest.raises(BusError, match=r"1 messages not delivered; topic t \[7\]"):
        producer.check()


def test_a_message_over_the_limit_is_refused_by_topic_and_size(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 1)
    producer = BusProducer(settings(embedded))
    with pytest.raises(BusError, match=r"topic t refuses 1,000,001 bytes"):
        producer.produce("t", bytes(1_000_001), partition=0)
    assert producer.sent == 0


def test_an_absent_broker_is_told_once_and_given_up_in_time() -> None:
    producer = BusProducer(BusSettings(bootstrap="127.0.0.1:1", connect_timeout_s=1.5))
    told: list[str] = []
    with pytest.raises(BusError, match=r"127\.0\.0\.1:1: no broker answered within 1\.5 s"):
        producer.connect(on_wait=told.append)
    assert len(told) == 1
    assert "trying for 1.5 s" in told[0]


def test_waiting_for_a_broker_can_be_stopped() -> None:
    stop = threading.Event()
    producer = BusProducer(BusSettings(bootstrap="127.0.0.1:1"))
    assert producer.connect(stop=stop, on_wait=lambda _: stop.set()) is False


def test_nothing_of_librdkafka_reaches_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    producer = BusProducer(BusSettings(bootstrap="127.0.0.1:1", connect_timeout_s=1))
    with pytest.raises(BusError):
        producer.connect()
    del producer
    assert capfd.readouterr() == ("", "")


def test_topics_are_required_with_their_partitions(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("p.t", 3)
    bus = settings(embedded, topic_prefix="p.")
    producer = BusProducer(bus)
    producer.require(topic_name(bus, "t"), 3)
    producer.require("p.t")
    with pytest.raises(BusError, match=r"topic p\.t has 3 partitions, not 8"):
        producer.require("p.t", 8)
    with pytest.raises(BusError, match="there is no topic other"):
        producer.require("other")
    assert producer.partitions("other") == 0, "asking has not created it"


def test_a_wrong_client_property_is_named() -> None:
    with pytest.raises(BusError, match=r"no\.such\.thing"):
        BusProducer(BusSettings(client={"no.such.thing": "1"}))


def test_records_handed_over_together_are_counted_one_by_one(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 4)
    producer = BusProducer(settings(embedded))
    producer.connect()
    producer.produce_items("t", [(b"v%d" % number, number % 4, "k") for number in range(500)])
    producer.produce_items("t", [])
    assert producer.flush(20) == 0
    producer.check()
    assert (producer.sent, producer.acked, producer.acked_items, producer.outstanding) == (500, 500, 500, 0)
    assert producer.sent_bytes == sum(len(b"v%d" % number) for number in range(500))


def test_records_handed_over_together_wait_for_room(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 4)
    producer = BusProducer(settings(embedded, client={"queue.buffering.max.messages": "20"}))
    producer.connect()
    producer.produce_items("t", [(bytes(1000), 0, "k")] * 300)
    assert producer.full_waits > 0
    assert producer.flush(20) == 0
    assert (producer.sent, producer.acked, producer.acked_items) == (300, 300, 300)


def test_a_producer_that_is_told_of_failures_alone_knows_what_arrived(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 2)
    producer = BusProducer(settings(embedded), only_failures=True)
    producer.produce("t", b"lost", partition=7, items=5)
    assert (producer.sent, producer.acked, producer.outstanding) == (1, 0, 1)
    producer.produce_items("t", [(b"v%d" % number, number % 2, "k") for number in range(500)])
    assert producer.flush(20) == 0
    assert (producer.sent, producer.acked, producer.failed) == (501, 500, 1)
    assert (producer.acked_items, producer.failed_items) == (0, 5)
    embedded.create_topic(PAYLOADS, 1)
    producer.produce(PAYLOADS, b"v", partition=0)
    assert producer.outstanding == 1
    assert producer.flush(20) == 0
    assert (producer.sent, producer.acked, producer.failed) == (502, 501, 1)
    with pytest.raises(BusError, match=r"1 messages not delivered; topic t \[7\]"):
        producer.check()


def test_a_record_refused_is_told_and_those_beside_it_are_counted(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("t", 4)
    producer = BusProducer(settings(embedded))
    producer.connect()
    with pytest.raises(BusError, match=r"topic t refuses 1,000,001 bytes"):
        producer.produce_items("t", [(b"a", 0, "k"), (bytes(1_000_001), 0, "k"), (b"b", 1, "k")])
    assert producer.flush(20) == 0
    assert (producer.sent, producer.acked) == (2, 2)
