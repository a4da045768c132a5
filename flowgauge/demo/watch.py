"""Reads every topic but ``packets`` while the demo runs, and sees to it that no offset is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from flowgauge.bus import TIMEOUT_S
from flowgauge.demo.flow_control import Place
from flowgauge.demo.tally import Tally
from producers.config import BusSettings
from producers.security.clients import client_properties, said
from schemas import topics
from schemas.codec import decode
from schemas.errors import BusError
from schemas.features import decode_feature_batch

_AT_ONCE = 500

Note = Callable[[str, int, int, int], None]
"""Told topic, partition, size and offset of each message."""


class Watcher:
    """Folds what is on the bus into a tally. Topics are plain names: the demo's bus has no prefix."""

    def __init__(self, bus: BusSettings, partitions: Mapping[str, int], tally: Tally, note: Note) -> None:
        self._tally = tally
        self._note = note
        self._bus = bus
        places = [TopicPartition(t, p, OFFSET_BEGINNING) for t, n in partitions.items() for p in range(n)]
        self._next: dict[Place, int] = {(place.topic, place.partition): 0 for place in places}
        self.missing = 0
        """Messages that were dropped before they were read."""
        self._consumer = Consumer(
            client_properties(
                bus,
                {
                    "group.id": "flowgauge-demo",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 20,
                    "fetch.error.backoff.ms": 50,
                },
            )
        )
        self._consumer.assign(places)

    def poll(self, timeout_s: float) -> int:
        """Take in what has come, waiting up to ``timeout_s`` for it; return how many messages it was."""
        messages = self._consumer.consume(_AT_ONCE, timeout_s)
        for message in messages:
            if message.error():
                self._failed(message)
            else:
                self._take(message)
        return len(messages)

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()

    def _failed(self, message: Any) -> None:
        error = message.error()
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise BusError(f"the embedded broker dropped messages before they were read: {error.str()}")
        if error.fatal():
            raise BusError(f"the demo's consumer cannot go on: {error.str()}")

    def _take(self, message: Any) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        self.missing += max(0, offset - self._next[topic, partition])
        self._next[topic, partition] = offset + 1
        value: bytes = message.value() or b""
        self._note(topic, partition, len(value), offset)
        tally = self._tally
        if topic.startswith("features."):
            tally.on_features(decode_feature_batch(value))
        elif topic == topics.PREDICTIONS_FLOW:
            tally.on_prediction(decode("Prediction", value))
        elif topic == topics.LABELS:
            tally.on_label(decode("Label", value))
        elif topic == topics.TELEMETRY_COST:
            tally.on_cost(decode("CostTelemetry", value))
        elif topic == topics.DEAD_LETTERS:
            tally.on_dead_letter(decode("DeadLetter", value))


class Commits:
    """Asks the broker how far consumer groups have committed."""

    def __init__(self, bus: BusSettings) -> None:
        self._bus = bus
        self._clients: dict[str, Consumer] = {}

    def __call__(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        """Return the committed offset of each place, 0 where the group has committed none.

        Raises:
            BusError: the broker does not answer.
        """
        wanted = [TopicPartition(topic, partition) for topic, partition in places]
        if not wanted:
            return {}
        if group not in self._clients:
            self._clients[group] = Consumer(client_properties(self._bus, {"group.id": group}))
        try:
            found = self._clients[group].committed(wanted, timeout=TIMEOUT_S)
        except KafkaException as error:
            raise BusError(f"{self._bus.bootstrap}: {said(error)}") from error
        return {(place.topic, place.partition): max(0, place.offset) for place in found}

    def close(self) -> None:
        """Leave the bus."""
        for client in self._clients.values():
            client.close()
