"""The packet model's agent: payloads in, predictions and votes out, models swapped between two runs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.packet.agent import PacketModelAgent
from models.packet.config import PacketModelSettings
from models.packet.live import Change
from models.packet.runtime import PacketModel
from producers.config import BusSettings
from schemas.codec import encode
from schemas.errors import BusError
from schemas.flow_key import partition_of
from schemas.payloads import PayloadBatch
from streams.faust_app import Message
from tests.models.online.batches import label
from tests.models.online.test_agent import ListSink
from tests.models.packet.batches import TIME_NS
from tests.models.packet.made import FLOW, graph, model, payloads


class Announced:
    """Changes that a test has in store."""

    def __init__(self) -> None:
        self.changes: list[Change[PacketModel]] = []

    def poll(self) -> Change[PacketModel] | None:
        return self.changes.pop(0) if self.changes else None


class Setup:
    """An agent, what it publishes, and the timers that it has set."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.sink, self.live = ListSink(), Announced()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.agent = PacketModelAgent(
            PacketModelSettings(**settings),
            BusSettings(partitions=8),
            self.sink,
            model(folder),
            self.live,
            lambda delay_s, call: self.timers.append((delay_s, call)),
        )
        self._offsets = itertools.count()

    def give(
        self, batch: PayloadBatch | bytes, waiting: int = 0, offset: int | None = None, **at: Any
    ) -> None:
        value = batch if isinstance(batch, bytes) else batch.encode()
        offset = next(self._offsets) if offset is None else offset
        self.agent.on_message(Message(at.get("topic", "payloads"), 3, offset, b"key", value, waiting))

    @property
    def packets(self) -> list[dict[str, Any]]:
        return self.sink.records("predictions.packet", "PacketPrediction")

    @property
    def votes(self) -> list[dict[str, Any]]:
        return self.sink.records("predictions.flow", "Prediction")

    def tick(self) -> dict[str, Any]:
        self.agent._next_telemetry_ns = 0
        self.agent.on_tick({("payloads", 3): 0})
        return self.sink.records("telemetry.cost", "CostTelemetry")[-1]


def test_a_prediction_for_each_packet_and_a_vote_for_each_flow(tmp_path: Path) -> None:
    to = Setup(tmp_path, probabilities=True)
    to.give(payloads((FLOW, 1, 2), (5, 1, 0), (FLOW, 2, 1), (FLOW, 4, 2)))
    assert [(r["flow_id"], r["packet_number"], r["label"]) for r in to.packets] == [
        ("abcd000000000001", 1, "web"),
        ("0000000000000005", 1, "dns"),
        ("abcd000000000001", 2, "mail"),
        ("abcd000000000001", 4, "web"),
    ]
    first = to.packets[0]
    assert first["confidence"] == pytest.approx(1.0, abs=1e-6)
    assert first["probabilities"]["dns"] == pytest.approx(0.0, abs=1e-6)
    assert (first["model"], first["model_version"]) == ("packets", "1")
    # The flow began at endpoint b, and its packets go from a to b.
    assert (first["source_address"], first["source_port"]) == ("10.0.0.2", 50000)
    assert (first["destination_port"], first["reversed"], first["octets"]) == (443, True, 60)
    assert first["probe_time_ns"] == TIME_NS
    assert [(v["flow_id"], v["depth"], v["label"], v["representation"]) for v in to.votes] == [
        ("abcd000000000001", 4, "web", "packet"),
        ("0000000000000005", 1, "dns", "packet"),
    ]
    places = {(t, p, k) for t, _, p, k in to.sink.messages if k == "abcd000000000001"}
    assert places == {(t, 5, "abcd000000000001") for t in ("predictions.packet", "predictions.flow")}
    assert partition_of(np.uint64(FLOW), 8) == 5


def test_a_repeat_has_the_same_ids_however_it_is_batched(tmp_path: Path) -> None:
    one, two = Setup(tmp_path / "a"), Setup(tmp_path / "b")
    batches = [payloads((FLOW, 1, 2), (5, 1, 0)), payloads((FLOW, 2, 2), sequence=1)]
    for batch in batches:
        one.give(batch)
        two.give(batch, waiting=1)
    two.agent.answer()
    ids = [[r["prediction_id"] for r in s.packets + s.votes] for s in (one, two)]
    assert ids[0] == ids[1]
    # A flow's vote at a packet is named like the packet's own prediction, on another topic.
    assert len({r["prediction_id"] for r in one.packets}) == 3


def test_packets_wait_for_others_at_most_as_long_as_the_budget(tmp_path: Path) -> None:
    to = Setup(tmp_path, latency_budget_ms=7)
    to.agent.model.batch_rows = 4
    to.give(payloads((FLOW, 1, 2)), waiting=9)
    to.give(payloads((FLOW, 2, 2), sequence=1), waiting=8)
    assert to.packets == []
    ((delay_s, call),) = to.timers
    assert delay_s == 0.007
    call()
    assert len(to.packets) == 2
    # Four are a full run; the last message that waits is one too.
    to.give(payloads(*[(FLOW, n, 2) for n in (3, 4, 5, 6)], sequence=2), waiting=7)
    assert len(to.packets) == 6
    to.give(payloads((FLOW, 7, 2), sequence=3), waiting=0)
    assert len(to.packets) == 7


def test_nothing_is_committed_before_it_is_answered(tmp_path: Path) -> None:
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2)), waiting=9)
    to.agent.before_commit()()
    assert len(to.packets) == 1
    to.sink.unanswered = 3
    with pytest.raises(BusError, match="3 messages not acknowledged"):
        to.agent.before_commit()()


def test_a_new_version_goes_live_between_two_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowgauge")
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2)))
    turned = np.zeros((1480, 3), np.float32)
    turned[20:23] = 20 * np.eye(3)[::-1]
    to.live.changes.append(Change("packets/2", model(tmp_path, "2", data=graph(turned))))
    to.give(payloads((FLOW, 2, 2), sequence=1))
    assert [(r["model_version"], r["label"]) for r in to.packets] == [("1", "web"), ("2", "dns")]
    assert "model packets/2 serves now, after packets/1" in caplog.text
    told = to.tick()["counters"]
    assert told["models_changed"] == 1
    assert "batches_missing" not in told


def test_an_unusable_version_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    to = Setup(tmp_path)
    to.live.changes.append(Change("packets/2", problem="weights that are no numbers: w"))
    to.give(payloads((FLOW, 1, 2)))
    assert [(r["model_version"], r["label"]) for r in to.packets] == [("1", "web")]
    assert "packets/2 is refused, packets/1 goes on serving: weights that are no numbers" in caplog.text
    assert to.tick()["counters"]["models_refused"] == 1


def test_votes_begin_anew_with_other_classes(tmp_path: Path) -> None:
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2)))
    two = model(tmp_path, "2", data=graph(np.zeros((1480, 2))), classes=("a", "b"))
    to.live.changes.append(Change("packets/2", two))
    to.give(payloads((FLOW, 2, 2), sequence=1))
    assert to.votes[-1]["label"] == "a"
    assert to.votes[-1]["confidence"] == pytest.approx(0.5)


POISON = [b"", b"nonsense", payloads((FLOW, 1, 2)).encode()[:-2], encode("Label", label(5, "web"))]


@pytest.mark.parametrize("value", POISON)
def test_a_poisoned_message_becomes_a_dead_letter(tmp_path: Path, value: bytes) -> None:
    to = Setup(tmp_path)
    to.give(value, offset=7)
    to.give(payloads((FLOW, 1, 2)), offset=8)
    (letter,) = to.sink.records("dead-letters", "DeadLetter")
    assert (letter["topic"], letter["offset"], letter["stage"]) == ("payloads", 7, "packet-models")
    assert len(to.packets) == 1
    assert to.tick()["counters"]["messages_set_aside"] == 1


def test_a_model_that_fails_costs_its_messages_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = Setup(tmp_path)

    def fail(vectors: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(to.agent.model, "predict", fail)
        to.give(payloads((FLOW, 1, 2), (FLOW, 2, 2)))
    to.give(payloads((FLOW, 3, 2), sequence=1))
    record = to.tick()
    assert (record["items_in"], record["items_out"], record["dropped"]) == (3, 1, {"failed": 2})
    assert "no memory" in to.sink.records("dead-letters", "DeadLetter")[0]["reason"]


def test_costs_sequences_and_redelivery_are_counted(tmp_path: Path) -> None:
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2)), offset=1)
    to.give(payloads((FLOW, 1, 2)), offset=1)
    to.give(payloads((FLOW, 9, 2), sequence=3), offset=2)
    record = to.tick()
    assert (record["stage"], record["detail"], record["unit"]) == ("packet-models", "packets", "packets")
    assert (record["items_in"], record["items_out"]) == (2, 2)
    assert record["counters"] == {"messages_redelivered": 1, "batches_missing": 2, "votes": 2}
    assert record["state_bytes"] > 0
    assert record["output_bytes"] > 0


def test_a_label_scores_the_vote_of_its_flow_once(tmp_path: Path) -> None:
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2), (5, 1, 0)))
    for flow, name in ((FLOW, "web"), (FLOW, "web"), (5, "web"), (77, "web")):
        to.give(encode("Label", label(flow, name)), topic="labels")
    record = to.tick()
    assert {k: v for k, v in record["counters"].items() if "label" in k or "vote" in k} == {
        "labels_received": 4,
        "votes": 2,
        "votes_right": 1,
        "votes_wrong": 1,
    }
    assert record["gauges"]["vote_accuracy"] == 0.5


def test_the_model_never_sees_the_transport_header(tmp_path: Path) -> None:
    weights = np.zeros((1480, 3), np.float32)
    weights[:20, 1] = 100
    weights[20, 0] = 10
    to = Setup(tmp_path)
    to.live.changes.append(Change("packets/2", model(tmp_path, "2", data=graph(weights))))
    open_header = payloads((FLOW, 1, 0), masked=0)
    raw = open_header.columns["payload"].copy()
    raw[:20] = 255
    open_header.columns["payload"] = raw
    to.give(open_header)
    assert to.packets[0]["label"] == "dns"


def test_a_lost_bus_stops_the_worker_also_from_the_timer(tmp_path: Path) -> None:
    to = Setup(tmp_path)
    to.give(payloads((FLOW, 1, 2)), waiting=5)
    to.sink.broken = True
    to.timers[0][1]()
    with pytest.raises(BusError, match="gone"):
        to.agent.on_tick({})
