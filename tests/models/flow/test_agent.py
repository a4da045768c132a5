"""The cascade's agent: rows and labels in, predictions out, cascades swapped between two groups."""

from __future__ import annotations

import itertools
import logging
import time
from typing import Any

import pytest

from models.flow.agent import CascadeAgent, input_topics
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.packet.live import Change
from producers.config import BusSettings
from schemas.codec import encode
from schemas.features import FeatureBatch
from streams.faust_app import Message
from tests.models.flow.scripted import SURE, UNSURE, batch, cascade, tier_card
from tests.models.online.batches import label
from tests.models.online.test_agent import ListSink


class Announced:
    """Changes that a test has in store."""

    def __init__(self) -> None:
        self.changes: list[Change[Cascade]] = []

    def poll(self) -> Change[Cascade] | None:
        return self.changes.pop(0) if self.changes else None


class Setup:
    """An agent and what it publishes."""

    def __init__(self, made: Cascade | None = None, **settings: Any) -> None:
        self.sink, self.live = ListSink(), Announced()
        self.agent = CascadeAgent(
            CascadeSettings(**settings), BusSettings(partitions=4), self.sink, made or cascade(), self.live
        )
        self._offsets = itertools.count()

    def give(
        self,
        *values: FeatureBatch | bytes,
        topic: str = "features.early",
        offset: int | None = None,
        drain: bool = True,
    ) -> None:
        for value in values:
            data = value if isinstance(value, bytes) else value.encode()
            at = next(self._offsets) if offset is None else offset
            self.agent.on_message(Message(topic, 0, at, b"key", data, 0))
        if drain:
            self.agent.on_drained()

    def label(self, flow: int, name: str) -> None:
        self.give(encode("Label", label(flow, name)), topic="labels")

    @property
    def predictions(self) -> list[dict[str, Any]]:
        return self.sink.records("predictions.flow", "Prediction")

    @property
    def finals(self) -> list[tuple[str, str | None, int]]:
        return [(p["flow_id"], p["label"], p["tier"]) for p in self.predictions if p["final"]]

    def tick(self) -> dict[str, Any]:
        self.agent._next_telemetry_ns = 0
        self.agent.on_tick({("features.early", 0): 0})
        return self.sink.records("telemetry.cost", "CostTelemetry")[-1]


def name(flow: int) -> str:
    return f"{flow:016x}"


def test_a_final_and_a_provisional_prediction_say_what_they_are() -> None:
    to = Setup()
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE), replayed=True))
    to.give(batch((5, 3, 0.5), slow=(2, SURE)))
    first, last = to.predictions
    assert (first["final"], first["tier"], first["label"], first["depth"]) == (False, 1, "mail", 1)
    assert (last["final"], last["tier"], last["label"], last["depth"]) == (True, 2, "web", 3)
    assert first["confidence"] == pytest.approx(UNSURE) and last["confidence"] == pytest.approx(SURE)
    assert first["prediction_id"] != last["prediction_id"]
    assert last["event_time_ns"] - first["event_time_ns"] == 500_000_000
    for told in (first, last):
        assert told["flow_id"] == name(5) and told["model"] == "flows" and told["model_version"] == "1"
        assert (told["source_address"], told["destination_port"]) == ("192.0.2.1", 443)
        assert (told["probe_time_ns"], told["bus_to_flows_ns"], told["flows_ns"]) == (1000, 500, 200)
    assert first["replayed"] and not last["replayed"]


def test_the_id_of_a_final_prediction_depends_on_the_flow_and_the_models_name_alone() -> None:
    ids = []
    for to in (Setup(), Setup(cascade(version="2")), Setup(name="other")):
        to.give(batch((5, 1, 0.0)))
        ids.append(to.predictions[-1]["prediction_id"])
    to = Setup(wait_s=1.0)
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    to.give(batch((6, 1, 2.0)))
    ids.append(next(p["prediction_id"] for p in to.predictions if p["final"] and p["flow_id"] == name(5)))
    assert ids[0] == ids[1] == ids[3] != ids[2]


def test_messages_that_cannot_be_used_are_set_aside_and_the_rest_goes_on() -> None:
    to = Setup()
    to.give(b"", b"nonsense", batch((5, 1, 0.0)))
    to.give(encode("Label", {**label(5, "web"), "flow_id": "x"}), topic="labels")
    assert to.finals == [(name(5), "dns", 1)]
    reasons = [r["reason"] for r in to.sink.records("dead-letters", "DeadLetter")]
    assert len(reasons) == 3 and "an empty message" in reasons[0] and "a label for no flow" in reasons[2]
    assert to.agent.counts()["messages_set_aside"] == 3


def test_a_defect_costs_the_messages_at_hand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    to = Setup()
    take = to.agent.server.take
    monkeypatch.setattr(to.agent.server, "take", lambda arrived: 1 / 0)
    to.give(batch((5, 1, 0.0)), batch((6, 1, 0.0)), drain=True)
    monkeypatch.setattr(to.agent.server, "take", take)
    to.give(batch((7, 1, 0.0)))
    assert to.finals == [(name(7), "dns", 1)]
    assert len(to.sink.records("dead-letters", "DeadLetter")) == 2


def test_messages_seen_before_are_passed_over() -> None:
    to = Setup()
    to.give(batch((5, 1, 0.0)), offset=7)
    to.give(batch((6, 1, 0.0)), offset=7)
    assert len(to.finals) == 1 and to.agent.counts()["messages_redelivered"] == 1


def test_late_labels_score_each_tier_and_the_gain_of_escalation() -> None:
    to = Setup()
    to.give(batch((1, 1, 0.0), fast=(0, SURE)))
    to.give(batch((2, 1, 0.0), (3, 1, 0.0), (4, 1, 0.0), fast=(1, UNSURE)))
    to.label(4, "web")  # before its final answer
    to.give(batch((2, 3, 0.1), (3, 3, 0.1), (4, 3, 0.1), slow=(2, SURE)))
    to.label(1, "dns")
    to.label(2, "web")
    to.label(3, "mail")
    to.label(3, "mail")
    to.label(9, "mail")
    counts = to.agent.counts()
    assert counts["labels_received"] == 6 and counts["labels_scored"] == 4
    assert (counts["labels_repeated"], counts["labels_unknown_flow"], counts["labels_waiting"]) == (1, 1, 0)
    assert (counts["escalations_that_helped"], counts["escalations_that_harmed"]) == (2, 1)
    gauges = to.tick()["gauges"]
    assert gauges["accuracy.fast"] == 0.5 and gauges["accuracy.slow"] == pytest.approx(2 / 3)
    assert gauges["accuracy.final"] == 0.75 and gauges["escalation_gain"] == pytest.approx(1 / 3)


def test_a_label_of_a_class_never_learned_is_counted_and_wrong_for_all() -> None:
    to = Setup()
    to.give(batch((1, 1, 0.0)))
    to.label(1, "teleport")
    assert to.agent.counts()["labels_unknown_class"] == 1
    assert to.tick()["gauges"]["accuracy.final"] == 0.0


def test_tiers_and_thresholds_are_swapped_together_between_two_groups(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    to = Setup()
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    to.live.changes.append(Change("flows/2", cascade(version="2")))
    to.give(batch((6, 1, 0.0)))
    assert [(p["flow_id"], p["model_version"]) for p in to.predictions if p["final"]] == [
        (name(5), "1"),
        (name(6), "2"),
    ]
    assert "cascade flows/2 serves now, after flows/1" in caplog.text


def test_a_cascade_that_does_not_fit_is_refused_and_the_one_before_serves_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    to = Setup()
    to.give(batch((5, 1, 0.0)))
    to.live.changes += [
        Change("flows/2", problem="tiers are damaged"),
        Change("flows/3", cascade(tier_card("fast", 1), tier_card("slow", 3, "deep"), version="3")),
        Change("flows/4", cascade(tier_card("fast", 1), tier_card("other", 3), version="4")),
    ]
    to.give(batch((6, 1, 0.0)))
    assert to.predictions[-1]["model_version"] == "1" and to.agent.counts()["cascades_refused"] == 3
    for words in ("tiers are damaged", "it needs features.deep", "has no column other_class"):
        assert words in caplog.text


def test_a_tier_that_could_not_be_loaded_is_told(caplog: pytest.LogCaptureFixture) -> None:
    to = Setup(cascade(missing=("slow",)))
    assert "goes without tier slow: slow is damaged" in caplog.text
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    to.give(batch((5, 3, 0.1)))
    assert to.finals == [(name(5), "mail", 1)]
    assert to.tick()["counters"]["failed_slow"] == 1


def test_under_overload_less_escalates_before_anything_is_dropped_and_it_recovers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("models.flow.agent.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    to = Setup(latency_target_ms=50.0)

    def passes(lag: int) -> float:
        to.agent.on_tick({("features.early", 0): lag})
        now[0] += 1
        return float(to.agent.pressure.factor)

    assert passes(0) == 1.0
    falling = [passes(1000) for _ in range(12)]
    assert falling == sorted(falling, reverse=True) and falling[-1] == 0.0
    assert to.agent.cascade.shares == (0.0,)
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    assert to.finals == [(name(5), "mail", 1)]
    assert to.tick()["gauges"]["escalation_factor"] == 0.0
    assert [passes(0) for _ in range(25)][-1] == 1.0
    to.give(batch((6, 1, 0.0), fast=(1, UNSURE)))
    assert len(to.finals) == 1
    assert caplog.text.count("escalates less") == 1 and "escalates as tuned again" in caplog.text


def test_rows_and_predictions_are_counted() -> None:
    to = Setup()
    to.give(batch((5, 1, 0.0), (6, 1, 0.0), (6, 2, 0.0), fast=(1, UNSURE)))
    told = to.tick()
    assert (told["stage"], told["detail"], told["unit"]) == ("cascade", "flows", "rows")
    assert (told["items_in"], told["items_out"]) == (3, 2)
    assert told["counters"]["rows_in_early"] == 3 and told["gauges"]["flows_waiting"] == 2


def test_topics_are_those_of_the_tiers_and_labels() -> None:
    assert input_topics(cascade()) == ("features.early", "labels")
    made = cascade(tier_card("fast", 1, "first"), tier_card("slow", 3, "deep"))
    assert input_topics(made) == ("features.first", "features.deep", "labels")


def test_nobody_is_given_up_for_silence_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    to = Setup(wait_s=1.0, silence_s=1.0)
    to.give(batch((5, 1, 0.0), fast=(1, UNSURE)))
    now_ns = time.time_ns() + 60 * 10**9
    monkeypatch.setattr(to.agent.server, "_clock", lambda: now_ns)
    to.agent.on_tick({}, away=True)
    assert to.finals == []
    to.agent.on_tick({})
    assert to.finals == [(name(5), "mail", 1)]
