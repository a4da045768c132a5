"""The whole way from packets to predictions on a real broker: flows workers, model workers, and what they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from models.online.records import prediction_ids
from schemas.codec import decode
from schemas.features import FeatureBatch
from streams.config import StreamsSettings
from streams.offline import run_offline
from tests.broker.flows import GROUP, PARTITIONS, Flows, Worker
from tests.waiting import wait_until

MODELS_GROUP = "flowgauge-models"
MODEL_TOPICS = ("features.early", "features.flow", "labels")
MODEL = {
    "session_timeout_s": 6,
    "commit_interval_s": 0.2,
    "classifier": "naive_bayes",
    "telemetry_interval_s": 0.5,
}


@cache
def offline_prediction_ids(capture: str, probe: str = "gate") -> frozenset[str]:
    """Return the id of every prediction that an undisturbed run makes of a capture."""
    batches: list[FeatureBatch] = []
    run_offline([capture], StreamsSettings(), partitions=PARTITIONS, probe=probe, on_batch=batches.append)
    answered = [b for b in batches if b.representation in ("early", "flow")]
    return frozenset(text for b in answered for text in prediction_ids(b, "online").texts)


@dataclass
class Pipeline(Flows):
    """Topics, and groups of flows and of model workers of their own."""

    def start_model(self, *more: str, **settings: Any) -> Worker:
        """Start a model worker; ``settings`` are of the section models, ``more`` are other settings, KEY=VALUE."""
        given = {**MODEL, "state_dir": str(self.folder / "models"), **settings}
        return self.run("models", *more, *(f"models.{key}={value}" for key, value in given.items()))

    def put(self, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
        """Produce raw messages to a partition of a topic (plain name), under the key of a flow state."""
        failed: list[KafkaError] = []
        producer = Producer({"bootstrap.servers": self.bootstrap})
        key = f"{GROUP}/{partition}/0/0"
        for value in values:
            producer.produce(
                self.prefix + topic, value, key, partition,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )  # fmt: skip
        assert producer.flush(30) == 0
        assert failed == []

    def progress(self, group: str, topics: Sequence[str]) -> dict[str, list[int]]:
        """Return a group's committed offsets by plain topic."""
        consumer = self._consumer(f"{self.prefix}{group}")
        try:
            asked = [TopicPartition(self.prefix + t, p) for t in topics for p in range(PARTITIONS)]
            found = consumer.committed(asked, timeout=20)
            return {t: [max(0, tp.offset) for tp in found if tp.topic == self.prefix + t] for t in topics}
        except KafkaException:  # the coordinator is starting
            return {topic: [] for topic in topics}
        finally:
            consumer.close()

    def wait_predicted(self, timeout_s: float = 90) -> None:
        """Wait until the models' group has committed everything on its topics."""
        ends = {topic: self.ends(topic) for topic in MODEL_TOPICS}
        wait_until(lambda: self.progress(MODELS_GROUP, MODEL_TOPICS) == ends, timeout_s)

    def moved(self) -> tuple[int, int]:
        """Return how many messages the flows' group and the models' group have committed."""
        flows = self.progress(GROUP, ("packets",))["packets"]
        models = self.progress(MODELS_GROUP, MODEL_TOPICS)
        return sum(flows), sum(map(sum, models.values()))

    def predictions(self) -> list[dict[str, Any]]:
        return [decode("Prediction", value) for value in self.read("predictions.flow")]
