"""The embedded broker: real clients talk to it, and what it cannot do is said clearly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.broker.embedded import EmbeddedBroker, load_librdkafka
from schemas.errors import BusError, FlowgaugeError


def test_topics_have_the_partitions_asked_for() -> None:
    with EmbeddedBroker({"packets": 3}) as broker:
        broker.create_topic("labels", 1)
        listed = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=5).topics
    assert {name: len(topic.partitions) for name, topic in listed.items()} == {"packets": 3, "labels": 1}


def test_confluent_reads_what_it_wrote_by_partition(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("packets", 2)
    producer = Producer({"bootstrap.servers": embedded.bootstrap, "enable.idempotence": True})
    for number in range(20):
        producer.produce("packets", str(number).encode(), partition=number % 2)
    assert producer.flush(10) == 0
    consumer = Consumer({
        "bootstrap.servers": embedded.bootstrap, "group.id": "g",
        "auto.offset.reset": "error", "fetch.wait.max.ms": 10,
    })  # fmt: skip
    consumer.assign([TopicPartition("packets", 1, 0)])
    try:
        read = []
        for _ in range(100):
            read += consumer.consume(20, timeout=0.1)
            if len(read) >= 10:
                break
    finally:
        consumer.close()
    assert [message.value() for message in read] == [str(number).encode() for number in range(1, 20, 2)]


def test_aiokafka_group_consumes_and_commits(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("labels", 1)

    async def run() -> tuple[list[bytes], int | None]:
        producer = AIOKafkaProducer(bootstrap_servers=embedded.bootstrap)
        await producer.start()
        for number in range(3):
            await producer.send_and_wait("labels", str(number).encode())
        await producer.stop()
        consumer = AIOKafkaConsumer(
            "labels", bootstrap_servers=embedded.bootstrap, group_id="g",
            auto_offset_reset="earliest", fetch_max_wait_ms=10, enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        try:
            values = [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(3)]
            await consumer.commit()
            (assigned,) = consumer.assignment()
            return values, await consumer.committed(assigned)
        finally:
            await consumer.stop()

    assert asyncio.run(run()) == ([b"0", b"1", b"2"], 3)


def test_two_brokers_live_side_by_side() -> None:
    with EmbeddedBroker({"a": 1}) as first, EmbeddedBroker({"b": 1}) as second:
        assert first.bootstrap != second.bootstrap
        assert set(AdminClient({"bootstrap.servers": second.bootstrap}).list_topics(timeout=5).topics) == {
            "b"
        }


def test_stop_can_be_repeated_and_start_is_fresh() -> None:
    broker = EmbeddedBroker({"a": 1}).start()
    broker.stop()
    broker.stop()
    with pytest.raises(BusError, match="not running"):
        _ = broker.bootstrap
    broker.start()
    broker.stop()


def test_a_topic_twice_names_it(embedded: EmbeddedBroker) -> None:
    embedded.create_topic("packets", 2)
    with pytest.raises(FlowgaugeError, match=r"topic packets: .*already exists"):
        embedded.create_topic("packets", 2)
    with pytest.raises(FlowgaugeError, match="topic none needs at least one partition"):
        embedded.create_topic("none", 0)


def test_starting_twice_is_refused(embedded: EmbeddedBroker) -> None:
    with pytest.raises(BusError, match="running already"):
        embedded.start()


def test_a_library_without_the_mock_is_named(tmp_path: Path) -> None:
    with pytest.raises(BusError, match=r"cannot load librdkafka from .*absent.so"):
        load_librdkafka(str(tmp_path / "absent.so"))
    import _ctypes  # some shared object that is not librdkafka

    with pytest.raises(BusError, match=r"rd_kafka_conf_new.*pip install confluent-kafka"):
        load_librdkafka(_ctypes.__file__)
