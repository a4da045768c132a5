"""The model worker: messages in, messages out, and nothing raised whatever comes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.online.agent import ModelWorker, feature_topics
from models.online.config import OnlineSettings
from producers.config import BusSettings
from schemas.codec import decode, encode
from schemas.errors import BusError
from schemas.flow_key import partition_of
from tests.models.online.batches import NAMES, feature_batch, label

FLOW = 0xABCD_0000_0000_0001


class ListSink:
    """A producer that keeps what it is given; refuses everything once ``broken`` is set."""

    acked = failed = sent_bytes = acked_items = failed_items = sent = outstanding = 0

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, int | None, str | None]] = []
        self.broken = False

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        if self.broken:
            raise BusError("bus nowhere:9092: gone")
        self.messages.append((topic, value, partition, key))

    def check(self) -> None:
        if self.broken:
            raise BusError("bus nowhere:9092: gone")

    def flush(self, timeout_s: float) -> int:
        return 0

    def records(self, topic: str, schema: str) -> list[dict[str, Any]]:
        return [decode(schema, value) for t, value, _, _ in self.messages if t == topic]


def worker(prefix: str = "", **model: Any) -> tuple[ModelWorker, ListSink]:
    sink = ListSink()
    chosen = OnlineSettings(**{"classifier": "naive_bayes", **model})
    return ModelWorker(chosen, BusSettings(topic_prefix=prefix, partitions=8), sink), sink


def give(to: ModelWorker, topic: str, value: bytes | None, offset: int = 7) -> None:
    asyncio.run(to.on_message(topic, 3, offset, b"key", value))


def test_consumes_the_topics_of_its_representations_and_labels() -> None:
    assert feature_topics(OnlineSettings()) == ("features.early", "features.flow")
    assert worker()[0].topics == ("features.early", "features.flow", "labels")
    assert worker("lab.", representations=["window"])[0].topics == ("lab.features.window", "lab.labels")


def test_predictions_go_to_the_partition_of_their_flow() -> None:
    to, sink = worker("lab.")
    give(to, "lab.features.early", feature_batch([FLOW, 5]).encode())
    assert [(t, p, k) for t, _, p, k in sink.messages] == [
        ("lab.predictions.flow", partition_of(FLOW, 8), "abcd000000000001"),
        ("lab.predictions.flow", 0, "0000000000000005"),
    ]
    assert partition_of(FLOW, 8) == 5
    assert [r["label"] for r in sink.records("lab.predictions.flow", "Prediction")] == [None, None]


def test_learns_from_labels_on_the_bus() -> None:
    to, sink = worker()
    give(to, "features.early", feature_batch([FLOW]).encode())
    give(to, "labels", encode("Label", label(FLOW, "dns")))
    give(to, "features.early", feature_batch([5]).encode())
    said = sink.records("predictions.flow", "Prediction")
    assert [r["label"] for r in said] == [None, "dns"]
    assert said[1]["model_version"].endswith("+1")
    assert said[1]["model_ns"] > 0


POISON = [
    ("features.early", b"\xc3\x01" + b"garbage?" * 2, "unknown schema"),
    ("features.early", b"", "empty"),
    ("features.early", None, "empty"),
    ("features.early", encode("Label", label(FLOW, "dns")), "expected a FeatureBatch"),
    ("features.early", feature_batch([FLOW]).encode()[:-3], "FeatureBatch"),
    ("labels", encode("Label", {**label(FLOW, "dns"), "flow_id": "nonsense"}), "label for no flow"),
    ("labels", encode("Label", label(FLOW, "")), "0 characters"),
    ("elsewhere", encode("Label", label(FLOW, "dns")), "none of the model's"),
]


@pytest.mark.parametrize(("topic", "value", "told"), POISON)
def test_a_poisoned_message_becomes_a_dead_letter(topic: str, value: bytes | None, told: str) -> None:
    to, sink = worker()
    give(to, topic, value, offset=42)
    (letter,) = sink.records("dead-letters", "DeadLetter")
    assert told in letter["reason"]
    assert (letter["topic"], letter["partition"], letter["offset"]) == (topic, 3, 42)
    assert (letter["stage"], letter["key"]) == ("models", b"key")
    assert (letter["message"], letter["message_size"]) == (value or b"", len(value or b""))
    to.publish_telemetry()
    assert sink.records("telemetry.cost", "CostTelemetry")[0]["counters"]["dead_letters"] == 1


def test_poison_is_told_once_a_topic_and_reason_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    to, sink = worker()
    with caplog.at_level(logging.WARNING, logger="flowgauge.models"):
        for offset in range(5):
            give(to, "features.early", b"garbage", offset)
            give(to, "features.early", feature_batch([offset]).encode())
        give(to, "labels", b"garbage")
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("dead letter from features.early, partition 3, offset 0:")
    assert len(sink.records("dead-letters", "DeadLetter")) == 6
    assert len(sink.records("predictions.flow", "Prediction")) == 5


def test_a_huge_message_is_cut_in_its_dead_letter() -> None:
    to, sink = worker()
    give(to, "labels", b"x" * 100_000)
    (letter,) = sink.records("dead-letters", "DeadLetter")
    assert (letter["message_size"], len(letter["message"])) == (100_000, 65_536)


def test_an_error_inside_the_model_becomes_a_dead_letter_with_its_rows_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to, sink = worker()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(to.learner.classifiers["early"], "predict", broken)
    give(to, "features.early", feature_batch([1, 2]).encode())
    assert sink.records("dead-letters", "DeadLetter")[0]["reason"] == "ZeroDivisionError: inside"
    to.publish_telemetry()
    told = sink.records("telemetry.cost", "CostTelemetry")[0]
    assert (told["items_in"], told["items_out"], told["dropped"]) == (2, 0, {"failed": 2})


def test_telemetry_adds_up_and_tells_each_interval_apart() -> None:
    to, sink = worker()
    give(to, "features.early", feature_batch([1, 2, 3]).encode())
    give(to, "features.flow", feature_batch([1], representation="window").encode())
    give(to, "labels", encode("Label", label(1, "dns")))
    to.publish_telemetry()
    give(to, "labels", encode("Label", label(1, "dns")))
    to.publish_telemetry()
    first, second = sink.records("telemetry.cost", "CostTelemetry")
    assert (first["stage"], first["detail"], first["unit"]) == ("models", "online", "rows")
    assert (first["items_in"], first["items_out"]) == (4, 3)
    assert first["dropped"] == {"other_representation": 1}
    assert first["counters"]["labels_matched"] == 1
    assert first["counters"]["rows_learned"] == 1
    assert first["state_bytes"] > 0
    assert first["output_bytes"] == sum(len(v) for t, v, _, _ in sink.messages if t == "predictions.flow")
    assert first["latency_p50_ns"] is not None
    assert (second["items_in"], second["counters"]) == (0, {"labels_received": 1, "labels_repeated": 1})


def test_a_bus_that_refuses_is_remembered_and_not_raised() -> None:
    to, sink = worker()
    sink.broken = True
    give(to, "features.early", feature_batch([1, 2]).encode())
    give(to, "labels", b"garbage")
    to.publish_telemetry()
    assert isinstance(to.failure, BusError)
    assert str(to.failure) == "bus nowhere:9092: gone"
    sink.broken = False
    to.publish_telemetry()
    assert to.meter.items_in == 0


VALID = feature_batch([FLOW, 5], [[1, 2, 3], [4, 5, 6]], names=NAMES).encode()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_gives_predictions_or_a_dead_letter(damage: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for at, byte in damage:
        data[at] = byte
    to, sink = worker()
    give(to, "features.early", bytes(data))
    give(to, "labels", encode("Label", label(FLOW, "dns")))
    give(to, "features.early", VALID)
    assert to.failure is None
    # The whole batch that follows always gets its answers.
    said = sink.records("predictions.flow", "Prediction")
    assert len([r for r in said if r["probe"] == "gate"]) >= 2
    assert len(sink.records("dead-letters", "DeadLetter")) <= 1
