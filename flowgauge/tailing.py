"""Reads a topic from some point on, without a consumer group, and yields its messages in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from flowgauge.bus import TIMEOUT_S, admin, broker_topics
from producers.config import BusSettings
from producers.security.access import hidden_topics
from producers.security.clients import client_properties, only_of_group, said
from schemas.errors import BusError

_POLL_S = 0.2
_BATCH = 500


def messages(
    bus: BusSettings, topic: str, from_beginning: bool, follow: bool, stop: Callable[[], bool]
) -> Iterator[Any]:
    """Yield the messages of ``topic`` (a full name) as confluent-kafka has them, partitions mixed.

    Without ``follow`` it ends where the topic ended when it began; with it, when ``stop`` says so. Messages
    that the broker dropped before they were read raise, since a gap must not pass unseen.

    Raises:
        BusError: no broker, no such topic, or messages lost.
    """
    there = broker_topics(admin(bus), bus)
    if topic not in there:
        near = ", ".join(sorted(name for name in there if not name.startswith("_"))) or "no topics"
        if hidden := hidden_topics(bus, [topic]):
            raise BusError(f"{bus.bootstrap}: {hidden}")
        raise BusError(f"{bus.bootstrap}: no topic {topic}; there is {near}")
    consumer = Consumer(
        client_properties(
            bus,
            {
                # A group is named because librdkafka wants one; assign() never joins it and nothing is committed.
                "group.id": "flowgauge-tail",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": False,
                "fetch.wait.max.ms": 50,
            },
        )
    )
    try:
        ends = _ends(consumer, bus, topic, there[topic])
        start = OFFSET_BEGINNING if from_beginning else OFFSET_END
        consumer.assign([TopicPartition(topic, p, start) for p in range(there[topic])])
        open_partitions = {p for p, (low, high) in ends.items() if from_beginning and high > low}
        while not stop() and (follow or open_partitions):
            for message in consumer.consume(_BATCH, _POLL_S):
                if message.error():
                    _raise_if_fatal(message.error(), bus, topic)
                    continue
                partition, high = message.partition(), ends[message.partition()][1]
                if follow or message.offset() < high:
                    yield message
                if message.offset() >= high - 1:
                    open_partitions.discard(partition)
    finally:
        consumer.close()


def _ends(consumer: Consumer, bus: BusSettings, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    try:
        return {
            p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=TIMEOUT_S)
            for p in range(partitions)
        }
    except KafkaException as error:
        raise BusError(f"{bus.bootstrap}: cannot read topic {topic}: {said(error)}") from error


def _raise_if_fatal(error: KafkaError, bus: BusSettings, topic: str) -> None:
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise BusError(
            f"{bus.bootstrap}: messages of {topic} were dropped before they were read: {error.str()}"
        )
    if error.code() == KafkaError._ALL_BROKERS_DOWN:
        raise BusError(f"{bus.bootstrap}: the broker went away: {error.str()}")
    if error.fatal() or not error.retriable():
        # Losing one connection is told as an error too, and librdkafka mends it by itself.
        if error.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT) or only_of_group(error):
            return
        raise BusError(f"{bus.bootstrap}: cannot read topic {topic}: {error.str()}")
