"""The model agent: messages in, messages out, and only a failing bus is raised."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.online.agent import ModelAgent, input_topics
from models.online.config import OnlineSettings
from producers.bus import Item
from producers.config import BusSettings
from schemas.codec import decode, encode
from schemas.errors import BusError
from schemas.flow_key import partition_of
from streams.faust_app import Handler, Message
from tests.models.online.batches import NAMES, feature_batch, label

FLOW = 0xABCD_0000_0000_0001


class ListSink:
    """A producer that keeps what it is given; refuses everything once ``broken`` is set."""

    acked = failed = sent_bytes = acked_items = failed_items = sent = outstanding = 0

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, int | None, str | None]] = []
        self.broken = False
        self.unanswered = 0

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        if self.broken:
            raise BusError("bus nowhere:9092: gone")
        self.messages.append((topic, value, partition, key))

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        for value, partition, key in items:
            self.produce(topic, value, partition, key, items=1)

    def check(self) -> None:
        if self.broken:
            raise BusError("bus nowhere:9092: gone")

    def flush(self, timeout_s: float) -> int:
        return self.unanswered

    def records(self, topic: str, schema: str) -> list[dict[str, Any]]:
        return [decode(schema, value) for t, value, _, _ in self.messages if t == topic]


def agent(prefix: str = "", **model: Any) -> tuple[ModelAgent, ListSink]:
    sink = ListSink()
    chosen = OnlineSettings(**{"classifier": "naive_bayes", "checkpoint_interval_s": 0, **model})
    return ModelAgent(chosen, BusSettings(topic_prefix=prefix, partitions=8), sink), sink


_OFFSETS = itertools.count()


def give(to: ModelAgent, topic: str, value: bytes, offset: int | None = None) -> None:
    to.on_message(Message(topic, 3, next(_OFFSETS) if offset is None else offset, b"key", value))
    to.on_drained()
    rest(to)


def rest(to: Handler) -> None:
    """Let a handler do all that it left for later."""
    while to.on_idle():
        pass


def tick(to: ModelAgent, waiting: int = 0) -> None:
    to._next_telemetry_ns = 0
    to.on_tick({("labels", 0): waiting})


def test_reads_the_topics_of_its_representations_and_labels() -> None:
    assert input_topics(OnlineSettings()) == ("features.early", "features.flow", "labels")
    assert input_topics(OnlineSettings(representations=("window",))) == ("features.window", "labels")


def test_predictions_go_to_the_partition_of_their_flow() -> None:
    to, sink = agent("lab.")
    give(to, "features.early", feature_batch([FLOW, 5]).encode())
    assert [(t, p, k) for t, _, p, k in sink.messages] == [
        ("lab.predictions.flow", partition_of(np.uint64(FLOW), 8), "abcd000000000001"),
        ("lab.predictions.flow", 0, "0000000000000005"),
    ]
    assert partition_of(np.uint64(FLOW), 8) == 5
    assert [r["label"] for r in sink.records("lab.predictions.flow", "Prediction")] == [None, None]


def test_learns_from_labels_on_the_bus() -> None:
    to, sink = agent()
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
    ("features.early", encode("Label", label(FLOW, "dns")), "expected a FeatureBatch"),
    ("features.early", feature_batch([FLOW]).encode()[:-3], "FeatureBatch"),
    ("labels", encode("Label", {**label(FLOW, "dns"), "flow_id": "nonsense"}), "label for no flow"),
    ("labels", encode("Label", label(FLOW, "")), "0 characters"),
]


@pytest.mark.parametrize(("topic", "value", "told"), POISON)
def test_a_poisoned_message_becomes_a_dead_letter(topic: str, value: bytes, told: str) -> None:
    to, sink = agent()
    give(to, topic, value, offset=42)
    (letter,) = sink.records("dead-letters", "DeadLetter")
    assert told in letter["reason"]
    assert (letter["topic"], letter["partition"], letter["offset"]) == (topic, 3, 42)
    assert (letter["stage"], letter["key"]) == ("models", b"key")
    assert (letter["message"], letter["message_size"]) == (value, len(value))
    tick(to)
    assert sink.records("telemetry.cost", "CostTelemetry")[0]["counters"]["messages_set_aside"] == 1


def test_poison_is_told_once_a_topic_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    to, sink = agent()
    with caplog.at_level(logging.WARNING, logger="flowgauge"):
        for offset in range(5):
            give(to, "features.early", b"garbage", 2 * offset)
            give(to, "features.early", feature_batch([offset]).encode(), 2 * offset + 1)
        give(to, "labels", b"garbage", 0)
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("features.early [3] offset 0 cannot be used")
    assert len(sink.records("dead-letters", "DeadLetter")) == 6
    assert len(sink.records("predictions.flow", "Prediction")) == 5


def test_a_huge_message_is_cut_in_its_dead_letter() -> None:
    to, sink = agent()
    give(to, "labels", b"x" * 100_000)
    (letter,) = sink.records("dead-letters", "DeadLetter")
    assert (letter["message_size"], len(letter["message"])) == (100_000, 65_536)


def test_an_error_inside_the_model_becomes_a_dead_letter_with_its_rows_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    to, sink = agent()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(to.learner.classifiers["early"], "predict", broken)
    give(to, "features.early", feature_batch([1, 2]).encode())
    assert sink.records("dead-letters", "DeadLetter")[0]["reason"] == "ZeroDivisionError: inside"
    tick(to)
    told = sink.records("telemetry.cost", "CostTelemetry")[0]
    assert (told["items_in"], told["items_out"], told["dropped"]) == (2, 0, {"failed": 2})


def test_telemetry_adds_up_and_tells_each_interval_apart() -> None:
    to, sink = agent()
    give(to, "features.early", feature_batch([1, 2, 3]).encode())
    give(to, "features.flow", feature_batch([1], representation="window").encode())
    give(to, "labels", encode("Label", label(1, "dns")))
    tick(to)
    give(to, "labels", encode("Label", label(1, "dns")))
    tick(to)
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


def test_predictions_on_the_messages_at_hand_leave_before_anything_is_learned() -> None:
    to, sink = agent()
    learned_when_sent: list[int] = []
    send = sink.produce_items

    def spied(topic: str, items: Sequence[Item]) -> None:
        learned_when_sent.append(to.learner.counts["rows_learned"])
        send(topic, items)

    sink.produce_items = spied  # type: ignore[method-assign]
    to.on_message(Message("features.early", 3, 0, None, feature_batch([1]).encode()))
    to.on_message(Message("labels", 3, 0, None, encode("Label", label(1, "dns"))))
    to.on_message(Message("features.early", 3, 1, None, feature_batch([1], depth=2).encode()))
    to.on_drained()
    assert learned_when_sent == [0] and to.counts()["labels_received"] == 0
    assert [to.on_idle(), to.on_idle(), to.on_idle(), to.on_idle()] == [True, True, False, False]
    assert to.counts()["rows_learned"] == 2


def test_a_bounded_number_of_messages_waits_to_be_learned_from() -> None:
    to, _ = agent()
    for offset in range(70):
        to.on_message(Message("labels", 3, offset, None, encode("Label", label(offset, "dns"))))
        to.on_drained()
    assert to.counts()["labels_received"] == 6
    to.before_commit()()
    assert to.counts()["labels_received"] == 70 and not to.on_idle()


def test_a_message_delivered_again_is_not_answered_again() -> None:
    to, sink = agent()
    for offset in (4, 5, 4, 5):
        give(to, "features.early", feature_batch([offset]).encode(), offset)
    assert len(sink.records("predictions.flow", "Prediction")) == 2
    assert to.counts()["messages_redelivered"] == 2
    to.on_assigned({"features.early": {3}})
    give(to, "features.early", feature_batch([4]).encode(), 4)
    ids = [r["prediction_id"] for r in sink.records("predictions.flow", "Prediction")]
    assert ids[2] == ids[0]
    assert to.counts()["rows_repeated"] == 1


def test_a_bus_that_refuses_stops_the_worker() -> None:
    to, sink = agent()
    sink.broken = True
    steps: tuple[Callable[[], object], ...] = (
        lambda: give(to, "features.early", feature_batch([1, 2]).encode()),
        lambda: give(to, "labels", b"garbage"),
        lambda: tick(to),
        to.before_commit,
    )
    for step in steps:
        with pytest.raises(BusError):
            step()


def test_a_commit_waits_for_every_answer_of_the_bus() -> None:
    to, sink = agent()
    sink.unanswered = 3
    with pytest.raises(BusError, match="3 messages not acknowledged"):
        to.before_commit()()


def test_handing_over_tells_the_last_costs_and_keeps_the_model() -> None:
    to, sink = agent()
    give(to, "features.early", feature_batch([FLOW]).encode())
    to.hand_over()
    assert [r["items_in"] for r in sink.records("telemetry.cost", "CostTelemetry")] == [1]
    give(to, "labels", encode("Label", label(FLOW, "dns")))
    assert to.counts()["labels_matched"] == 1


VALID = feature_batch([FLOW, 5], [[1, 2, 3], [4, 5, 6]], names=NAMES).encode()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_damage_gives_predictions_or_a_dead_letter(damage: list[tuple[int, int]]) -> None:
    data = bytearray(VALID)
    for at, byte in damage:
        data[at] = byte
    to, sink = agent()
    give(to, "features.early", bytes(data))
    give(to, "labels", encode("Label", label(FLOW, "dns")))
    give(to, "features.early", VALID)
    # The whole batch that follows always gets its answers.
    said = sink.records("predictions.flow", "Prediction")
    assert len([r for r in said if r["probe"] == "gate"]) >= 2
    assert len(sink.records("dead-letters", "DeadLetter")) <= 1
