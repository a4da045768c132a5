"""The thin edge: messages of feature and label topics in, prediction messages and dead letters out.

``ModelWorker`` knows topics and bytes, but not Faust: whoever consumes hands it each message.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import numpy as np

from models.online.config import OnlineSettings
from models.online.learner import OnlineLearner
from producers.bus import Sink
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas import topics
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.features import decode_feature_batch
from schemas.flow_key import parse_flow_id, partition_of

LOG = logging.getLogger("flowgauge.models")
STAGE = "models"

_DEAD_LETTER_BYTES = 65_536
_MAX_REASONS_LOGGED = 100


def feature_topics(settings: OnlineSettings) -> tuple[str, ...]:
    """Return the topics, without prefix, that the model reads features from."""
    return tuple(f"features.{name}" for name in settings.representations)


class ModelWorker:
    """One online model on the bus. ``on_message`` never raises.

    ``failure`` is set once the bus refuses a message: from then on predictions are missing, so whoever runs
    the worker must stop and commit nothing more.
    """

    def __init__(
        self, settings: OnlineSettings, bus: BusSettings, producer: Sink, learner: OnlineLearner | None = None
    ) -> None:
        self.learner = OnlineLearner(settings) if learner is None else learner
        self.meter = StageMeter(STAGE, "rows", detail=settings.name)
        self.failure: BusError | None = None
        self._bus = bus
        self._producer = producer
        self._features = {topic_name(bus, name) for name in feature_topics(settings)}
        self._labels = topic_name(bus, topics.LABELS)
        self._predictions = topic_name(bus, topics.PREDICTIONS_FLOW)
        self._reasons_logged: set[tuple[str, str]] = set()
        self._told: Counter[str] = Counter()

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the full names of the topics to consume."""
        return (*sorted(self._features), self._labels)

    async def on_message(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None
    ) -> None:
        """Handle a message; one that cannot be used goes to the dead letters.

        Args:
            topic: full name, prefix included.
            partition, offset: where the message is.
            key: its key.
            value: the encoded message.
        """
        try:
            self._handle(topic, value)
        except BusError as error:
            self._fail(error)
        except Exception as error:  # Faust would commit the message and go on: it must not vanish unseen
            reason = str(error) if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
            self._set_aside(topic, partition, offset, key, value, reason)

    def _handle(self, topic: str, value: bytes | None) -> None:
        if not value:
            raise CodecError("an empty message")
        if topic in self._features:
            self._on_features(value, time.time_ns())
        elif topic == self._labels:
            self.learner.on_label(decode("Label", value))
        else:
            raise CodecError(f"topic {topic} is none of the model's")

    def _on_features(self, value: bytes, received_time_ns: int) -> None:
        batch = decode_feature_batch(value)
        self.meter.items_in += batch.rows
        made = 0
        try:
            records = self.learner.on_features(batch, received_time_ns)
            for record in records:
                self._produce(record)
                made += 1
        finally:
            self.meter.items_out += made
            other = batch.representation not in self.learner.classifiers
            self.meter.drop("other_representation" if other else "failed", batch.rows - made)
        self.meter.record_ns(time.time_ns() - batch.probe_time_ns, made)

    def _produce(self, record: dict[str, Any]) -> None:
        value = encode("Prediction", record)
        flow_id = record["flow_id"]
        partition = partition_of(np.uint64(parse_flow_id(flow_id)), self._bus.partitions)
        self._producer.produce(self._predictions, value, partition=int(partition), key=flow_id)
        self.meter.output_bytes += len(value)

    def publish_telemetry(self, now_ns: int | None = None) -> None:
        """Publish what happened since the last call on ``telemetry.cost``; never raises."""
        counts = self.learner.counts
        for name, total in counts.items():
            self.meter.count(name, total - self._told[name])
        self._told = counts.copy()
        self.meter.state_bytes = self.learner.state_bytes
        record = self.meter.snapshot(now_ns)
        try:
            self._producer.produce(
                topic_name(self._bus, topics.TELEMETRY_COST), encode("CostTelemetry", record), key=STAGE
            )
            self._producer.check()
        except BusError as error:
            self._fail(error)

    def _set_aside(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, reason: str
    ) -> None:
        """Count an unusable message, tell of it once a reason, and publish it as a dead letter."""
        reason = " ".join(reason.split())[:500]
        self.meter.count("dead_letters")
        if (topic, reason) not in self._reasons_logged and len(self._reasons_logged) < _MAX_REASONS_LOGGED:
            self._reasons_logged.add((topic, reason))
            LOG.warning("dead letter from %s, partition %d, offset %d: %s", topic, partition, offset, reason)
        letter = {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "stage": STAGE,
            "reason": reason,
            "time_ns": time.time_ns(),
            "key": key,
            "message_size": len(value or b""),
            "message": (value or b"")[:_DEAD_LETTER_BYTES],
        }
        try:
            self._producer.produce(
                topic_name(self._bus, topics.DEAD_LETTERS), encode("DeadLetter", letter), key=topic
            )
        except BusError as error:
            self._fail(error)

    def _fail(self, error: BusError) -> None:
        if self.failure is None:
            self.failure = error
            LOG.error("the bus refuses messages: %s", error)
