"""The topics to record, and a consumer of theirs that begins where the recording ends, not where a group committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from flowgauge.bus import TIMEOUT_S
from flowgauge.recording.rows import Message, Shape, shape_of
from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties, only_of_group, said
from schemas.errors import BusError, SettingsError
from schemas.topics import Topic

QUEUE_KBYTES = 16_384
"""What librdkafka may fetch ahead."""
_BATCH = 500
_AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)


class Source(NamedTuple):
    """A topic to record: full name, partitions, and how its messages become rows."""

    topic: str
    partitions: int
    shape: Shape


def choose(
    patterns: Sequence[str], topics: Mapping[str, Topic], there: Mapping[str, int], bus: BusSettings
) -> list[Source]:
    """Return the topics that ``patterns`` name, among the project's and those on the broker.

    Raises:
        SettingsError: a pattern matches nothing that can be recorded, or names what cannot be.
        BusError: a topic named is not on the broker.
    """
    shapes = {name: shape for name, topic in topics.items() if (shape := shape_of(topic.schema)) is not None}
    chosen: dict[str, Shape] = {}
    for pattern in patterns:
        names = [name for name in shapes if fnmatchcase(name, pattern)]
        if not names:
            able = ", ".join(sorted(shapes))
            what = "cannot be recorded" if pattern in topics else "is no topic of this project"
            raise SettingsError(f"record: {pattern} {what}; these can: {able}")
        for name in names:
            if topic_name(bus, name) in there:
                chosen[name] = shapes[name]
            elif name == pattern:
                raise BusError(
                    f"{bus.bootstrap}: no topic {topic_name(bus, name)} (flowgauge topics --create makes it)"
                )
    if not chosen:
        raise BusError(
            f"{bus.bootstrap}: none of the topics to record is there (flowgauge topics --create makes them)"
        )
    return [
        Source(topic_name(bus, name), there[topic_name(bus, name)], shape) for name, shape in chosen.items()
    ]


class Reader:
    """Reads partitions from given offsets; joins no group and commits nothing."""

    def __init__(self, bus: BusSettings) -> None:
        self._bus = bus
        self._where: dict[tuple[str, int], int] = {}
        self._consumer = Consumer(
            client_properties(
                bus,
                {
                    # A group is named because librdkafka wants one; assign() never joins it.
                    "group.id": "flowgauge-record",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "enable.partition.eof": False,
                    "queued.max.messages.kbytes": QUEUE_KBYTES,
                    "fetch.wait.max.ms": 50,
                },
            )
        )

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset that the broker still has, and the one after its last message.

        Raises:
            BusError: the broker does not say.
        """
        try:
            found: tuple[int, int] = self._consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=TIMEOUT_S
            )
        except KafkaException as error:
            raise BusError(f"{self._bus.bootstrap}: cannot read topic {topic}: {said(error)}") from error
        return found

    def start(self, where: Mapping[tuple[str, int], int]) -> None:
        """Read from these offsets on."""
        self._where = dict(where)
        self._consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in where.items()])

    def move(self, topic: str, partition: int, offset: int) -> None:
        """Go on elsewhere in one partition."""
        self._consumer.incremental_unassign([TopicPartition(topic, partition)])
        self._consumer.incremental_assign([TopicPartition(topic, partition, offset)])

    def read(
        self, timeout_s: float, on_gone: Callable[[str, int], None], on_away: Callable[[str], None]
    ) -> dict[tuple[str, int], list[Message]]:
        """Return what came within a time, by topic and partition.

        ``on_gone`` is told of a partition whose next message the broker no longer has, ``on_away`` that no
        broker answers.

        Raises:
            BusError: reading cannot go on.
        """
        out: dict[tuple[str, int], list[Message]] = {}
        for message in self._consumer.consume(_BATCH, timeout_s):
            error = message.error()
            if error is None:
                place = (message.topic(), message.partition())
                out.setdefault(place, []).append(
                    Message(message.offset(), message.key(), message.value() or b"")
                )
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                on_gone(message.topic(), message.partition())
            elif error.code() in _AWAY:
                on_away(error.str())
            elif error.fatal() or not (error.retriable() or only_of_group(error)):
                raise BusError(f"{self._bus.bootstrap}: cannot read: {error.str()}")
        return out

    def lag(self, position: Callable[[str, int], int]) -> int:
        """Return how many messages wait, as far as fetches have told."""
        waiting = 0
        for topic, partition in self._where:
            high: Any = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            if high is not None and high[1] >= 0:
                waiting += max(0, high[1] - position(topic, partition))
        return waiting

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()
