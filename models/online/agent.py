"""The online model's handler: feature batches and labels from the bus in, predictions out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.online.config import OnlineSettings
from models.online.learner import OnlineLearner
from producers.bus import Sink
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.features import decode_feature_batch
from schemas.flow_key import parse_flow_id, partition_of
from schemas.topics import LABELS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.dead_letters import DeadLetters
from streams.faust_app import Message

log = logging.getLogger("flowgauge")

FLUSH_TIMEOUT_S = 60.0


def input_topics(settings: OnlineSettings) -> tuple[str, ...]:
    """Return the plain names of the topics that the model reads: its features, and labels."""
    return (*(f"features.{name}" for name in settings.representations), LABELS)


class ModelAgent:
    """Handler of the feature topics and of ``labels``: one model for all partitions in hand.

    The model stays in the process at a rebalance; rows of partitions that went elsewhere wait until they expire.
    """

    def __init__(
        self, settings: OnlineSettings, bus: BusSettings, sink: Sink, learner: OnlineLearner | None = None
    ) -> None:
        """Make the model, unless one is given; raises SettingsError for parameters that it has not."""
        self.settings = settings
        self.bus = bus
        self.sink = sink
        self.learner = OnlineLearner(settings) if learner is None else learner
        self.totals: Counter[str] = Counter()
        self.dead_letters = DeadLetters("models", bus, sink)
        self._meter = StageMeter("models", "rows", detail=settings.name)
        self._next_offset: dict[tuple[str, int], int] = {}
        self._told: Counter[str] = Counter()
        self._next_telemetry_ns = 0

    @property
    def meter(self) -> StageMeter:
        """What this agent counts about itself."""
        return self._meter

    def counts(self) -> Counter[str]:
        """Return all counters by name since the start."""
        return self.totals + self.learner.counts

    def on_message(self, message: Message) -> None:
        """Predict on a feature batch, or learn from a label; raises BusError only."""
        received_ns = time.time_ns()
        source = (message.topic, message.partition)
        if message.offset < self._next_offset.get(source, 0):
            # Faust delivers a message twice around a rebalance; its predictions are on the bus already.
            self.totals["messages_redelivered"] += 1
            return
        self._next_offset[source] = message.offset + 1
        try:
            if not message.value:
                raise CodecError("an empty message")
            if message.topic == LABELS:
                self.learner.on_label(decode("Label", message.value))
            else:
                self._on_features(message.value, received_ns)
        except BusError:
            raise
        except CodecError as error:
            self._set_aside(message, str(error))
        except Exception as error:  # a defect must cost one message, not the worker
            log.exception("%s [%d] offset %d", message.topic, message.partition, message.offset)
            self._set_aside(message, f"{type(error).__name__}: {error}")

    def on_tick(self, waiting: Mapping[tuple[str, int], int]) -> None:
        """Publish the costs when it is time."""
        self.sink.check()
        now_ns = time.time_ns()
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + round(self.settings.telemetry_interval_s * 1e9)
            self._publish_telemetry(sum(waiting.values()))

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Begin anew with offsets; what comes again is known by its prediction id too."""
        self._next_offset.clear()

    def flush(self) -> None:
        """Return once every prediction is on the bus."""
        if left := self.sink.flush(FLUSH_TIMEOUT_S):
            raise BusError(f"bus {self.bus.bootstrap}: {left:,} messages not acknowledged")
        self.sink.check()

    def hand_over(self) -> None:
        """Tell the last costs; the model has nothing that another worker could take over."""
        self._publish_telemetry(None)
        self.flush()
        self._next_offset.clear()

    def _on_features(self, value: bytes, received_ns: int) -> None:
        batch = decode_feature_batch(value)
        made = 0
        try:
            for record in self.learner.on_features(batch, received_ns):
                self._produce(record)
                made += 1
        finally:
            # Rows in are rows out and rows dropped, also where the model fails in the middle.
            self._meter.items_in += batch.rows
            self._meter.count(f"rows_in_{batch.representation}", batch.rows)
            self._meter.items_out += made
            other = batch.representation not in self.learner.classifiers
            self._meter.drop("other_representation" if other else "failed", batch.rows - made)
        self._meter.record_ns(time.time_ns() - batch.probe_time_ns, made)

    def _produce(self, record: dict[str, Any]) -> None:
        value = encode("Prediction", record)
        flow_id = record["flow_id"]
        partition = partition_of(np.uint64(parse_flow_id(flow_id)), self.bus.partitions)
        self.sink.produce(topic_name(self.bus, PREDICTIONS_FLOW), value, partition, flow_id, items=1)
        self._meter.output_bytes += len(value)

    def _set_aside(self, message: Message, reason: str) -> None:
        self.totals["messages_set_aside"] += 1
        self.dead_letters.put(
            message.topic, message.partition, message.offset, message.key, message.value, reason
        )

    def _publish_telemetry(self, waiting: int | None) -> None:
        counts = self.counts()
        for name, value in counts.items():
            self._meter.count(name, value - self._told[name])
        self._told = counts
        self._meter.state_bytes = self.learner.state_bytes
        self._meter.lag_records = waiting
        record = encode("CostTelemetry", self._meter.snapshot())
        self.sink.produce(topic_name(self.bus, TELEMETRY_COST), record, partition=0)
