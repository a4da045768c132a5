"""Messages between a restored state and what its group has committed: the model has to learn them again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties, only_of_group
from schemas.errors import BusError
from streams.faust_app import Message
from streams.handover import Position, StateReader

Source = tuple[str, int]
"""Plain topic and partition."""


def positions(bus: BusSettings, group: str, partitions: Mapping[str, set[int]]) -> dict[Source, Position]:
    """Return where the group is in each partition of each (plain) topic; raises BusError."""
    with StateReader(bus, group) as reader:
        return {
            (topic, number): position
            for topic, numbers in partitions.items()
            for number, position in reader.positions(topic_name(bus, topic), numbers).items()
        }


def read_backlog(
    bus: BusSettings, group: str, spans: Mapping[Source, tuple[int, int]], timeout_s: float
) -> Iterator[Message]:
    """Yield the messages of each source from the first offset to before the second, for at most ``timeout_s``.

    Raises:
        BusError: they cannot be read.
    """
    names = {topic_name(bus, topic): topic for topic, _ in spans}
    left = {(topic_name(bus, topic), number): end for (topic, number), (_, end) in spans.items()}
    properties: dict[str, Any] = {
        # Never joined: offsets are assigned here and not committed.
        "group.id": f"{bus.topic_prefix}{group}-backlog",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
    }
    consumer = Consumer(client_properties(bus, properties))
    try:
        consumer.assign(
            [TopicPartition(topic_name(bus, t), number, begin) for (t, number), (begin, _) in spans.items()]
        )
        deadline = time.monotonic() + timeout_s
        while left and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is None:
                continue
            source = (message.topic() or "", int(message.partition() or 0))
            if (error := message.error()) is not None and only_of_group(error):
                continue
            if (error := message.error()) is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise BusError(f"topic {source[0]} [{source[1]}] cannot be read: {error.str()}")
                left.pop(source, None)
                continue
            offset = int(message.offset() or 0)
            if source not in left:
                continue
            if offset + 1 >= left[source]:
                end = left.pop(source)
                if offset >= end:
                    continue
            yield Message(names[source[0]], source[1], offset, _bytes(message.key()), _bytes(message.value()))
    except KafkaException as error:
        raise BusError(f"bus {bus.bootstrap}: {error.args[0]}") from error
    finally:
        consumer.close()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
