"""The parts of the demo, each alone."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console

from flowgauge.demo import flow_control
from flowgauge.demo.account import checks
from flowgauge.demo.children import Child, Children
from flowgauge.demo.flow_control import LIMIT_BYTES, FlowControl, Ledger, Place
from flowgauge.demo.screen import (
    Progress,
    accuracy_table,
    as_object,
    costs_of,
    predictions_table,
    status_line,
)
from flowgauge.demo.tally import Tally
from flowgauge.demo.watch import Commits, Watcher
from infra.broker.embedded import PARTITION_BYTES, EmbeddedBroker
from producers.config import BusSettings
from producers.summary import ProbeSummary, ReplaySummary
from schemas.codec import encode
from schemas.errors import BusError, FlowgaugeError
from tests.flowgauge.batches import feature_batch


def prediction(number: int, flow: str, label: str | None, depth: int = 1, reason: int = 0) -> dict[str, Any]:
    return {
        "prediction_id": f"{number:016x}", "flow_id": flow, "label": label, "confidence": 0.75, "depth": depth,
        "representation": "flow" if reason else "early", "flow_end_reason": reason, "source_address": "fd00::1",
        "source_port": 1, "destination_address": "fd00::2", "destination_port": 2, "protocol": 17,
    }  # fmt: skip


def label(flow: str, text: str) -> dict[str, Any]:
    return {"flow_id": flow, "label": text}


def cost(stage: str, items: int, **more: Any) -> dict[str, Any]:
    return {
        "stage": stage, "unit": "packets", "items_in": items, "items_out": items, "cpu_ns": 100 * items,
        "interval_ns": 10**9, "output_bytes": 7, "state_bytes": 11, "latency_p50_ns": None, "latency_p99_ns": None,
        "dropped": {}, "counters": {}, "instance": "here:1", "detail": "", "time_ns": 10**9, "lag_records": 0,
        "gauges": {}, **more,
    }  # fmt: skip


def plain(table: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_predictions_are_scored_once_the_truth_is_known() -> None:
    tally = Tally()
    tally.on_prediction(prediction(1, "a", "dns"))
    tally.on_prediction(prediction(2, "b", None))
    assert tally.overall().accuracy is None
    assert tally.unlabelled == 2
    tally.on_label(label("a", "dns"))
    tally.on_label(label("b", "web"))
    tally.on_prediction(prediction(3, "b", "dns", depth=8))
    tally.on_prediction(prediction(4, "b", "web", depth=20, reason=1))
    tally.on_prediction(prediction(4, "b", "web", depth=20, reason=1))
    found = {key: (s.correct, s.wrong, s.unsure) for key, s in tally.scores.items()}
    assert found == {("early", 1): (1, 0, 1), ("early", 8): (0, 1, 0), ("flow", 0): (1, 0, 0)}
    assert (tally.predictions, tally.answers, tally.repeated, tally.unlabelled) == (4, 3, 1, 0)
    assert tally.overall().accuracy == 2 / 3
    assert dict(tally.classes) == {"dns": 1, "web": 1}


def test_flows_are_counted_by_their_rows() -> None:
    tally = Tally()
    tally.on_features(feature_batch(5))
    early = feature_batch(3, representation="early")
    early.columns["depth"][:] = (1, 1, 8)
    tally.on_features(early)
    assert (tally.flows_begun, tally.flows_ended) == (2, 5)
    assert dict(tally.rows) == {"flow": 5, "early": 3}


def test_the_view_shows_truth_costs_and_addresses() -> None:
    tally = Tally()
    tally.on_label(label("a", "dns"))
    for number, said in enumerate(["dns", "web", None]):
        tally.on_prediction(prediction(number, "a", said))
    tally.on_prediction(prediction(9, "unknown", "dns"))
    lines = [line.split() for line in plain(predictions_table(tally)).splitlines() if "[fd00::1]:1" in line]
    assert [line[-1] for line in lines] == ["…", "dns", "dns", "✓"]
    assert lines[2][-2] == "✗"
    tally.on_cost(cost("flows", 1000, latency_p50_ns=2_000_000, latency_p99_ns=3_000_000_000))
    tally.on_cost(cost("flows", 3000))
    row = next(line.split() for line in plain(costs_of(tally)).splitlines() if "flows" in line)
    assert row == ["flows", "4000", "packets", "100", "ns", "11B", "14B", "2", "ms", "3", "s"]
    assert "33.3%" not in plain(accuracy_table(tally))
    assert "50.0%" in plain(accuracy_table(tally))
    progress = Progress()
    progress.packets, progress.replay_began, progress.replay_s = 500, time.monotonic(), 10.0
    assert "500 packets (50/s), 0 flows, 4 predictions (0/s), accuracy 50.0%" in status_line(progress, tally)


def outcome() -> tuple[ReplaySummary, Tally]:
    probe = ProbeSummary([], packets_sent=10, labels=1)
    tally = Tally()
    tally.on_features(feature_batch(2))
    for number in range(2):
        tally.on_prediction(prediction(number, "a", "dns", reason=1))
    tally.on_label(label("a", "dns"))
    tally.on_cost(cost("flows", 10))
    tally.on_cost(cost("models", 2))
    return ReplaySummary({"demo": probe}, 1.0, packets_acked=10), tally


def test_everything_adds_up() -> None:
    replay, tally = outcome()
    found = checks(replay, tally, ("flow",), 0)
    assert [check.problem for check in found if not check.holds] == []
    assert all(entry["holds"] for entry in as_object(Progress(), tally, found)["accounting"])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda r, t: t.on_cost(cost("flows", -1)), "packets in the flow table: 9, not 10"),
        (
            lambda r, t: t.on_cost(cost("flows", 0, counters={"batches_missing": 2})),
            "in a sequence: 2, not 0",
        ),
        (lambda r, t: t.on_features(feature_batch(1)), "predictions: 2, not 3"),
        (lambda r, t: t.on_cost(cost("models", 1)), "feature rows taken up by the model: 3, not 2"),
        (lambda r, t: t.on_dead_letter({}), "dead letters: 1, not 0"),
        (lambda r, t: t.on_label(label("a", "dns")), "labels on the bus: 2, not 1"),
        (lambda r, t: setattr(r, "packets_acked", 9), "acknowledged by the broker: 9, not 10"),
    ],
)
def test_whatever_does_not_add_up_is_told(spoil: Any, problem: str) -> None:
    replay, tally = outcome()
    spoil(replay, tally)
    problems = [check.problem for check in checks(replay, tally, ("flow",), 0) if not check.holds]
    assert any(problem in text for text in problems), problems


def test_a_ledger_releases_what_is_committed() -> None:
    ledger = Ledger()
    for size in (10, 20, 30):
        ledger.add(size)
    ledger.release(2)
    assert ledger.bytes == 30
    ledger.add(5, offset=7)
    ledger.release(8)
    assert (ledger.bytes, ledger.next_offset) == (0, 8)


def test_flow_control_waits_until_the_slowest_group_has_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    committed: dict[Place, int] = {}

    def ask(group: str, places: list[Place]) -> Mapping[Place, int]:
        assert group in ("flows", "models")
        return {place: committed.get(place, 0) for place in places}

    control = FlowControl({"packets": "flows", "features.flow": "models"}, ask, lambda: False)
    control.admit("packets", 0, LIMIT_BYTES - 10)
    control.note("features.flow", 0, LIMIT_BYTES, offset=0)
    control.admit("packets", 1, LIMIT_BYTES - 10)
    control.note("other", 0, 10**9)

    admitted = threading.Event()

    def more() -> None:
        control.admit("packets", 0, 100)
        admitted.set()

    thread = threading.Thread(target=more, daemon=True)
    thread.start()
    committed["packets", 0] = 1
    assert not admitted.wait(0.2)
    committed["features.flow", 0] = 1
    assert admitted.wait(10)
    thread.join(10)
    assert control.waits == 1
    assert control.in_flight() == {"packets": 2, "features.flow": 0}
    monkeypatch.setattr(flow_control, "_PATIENCE_S", 0.0)
    with pytest.raises(BusError, match=r"consumers of packets \[1\] do not catch up"):
        control.admit("packets", 1, 100)


def test_flow_control_lets_go_when_the_demo_stops() -> None:
    control = FlowControl({"packets": "flows"}, lambda group, places: {}, lambda: True)
    control.admit("packets", 0, 2 * LIMIT_BYTES)
    control.admit("packets", 0, 2 * LIMIT_BYTES)


@pytest.fixture
def bus(embedded: EmbeddedBroker) -> BusSettings:
    for name in ("labels", "features.flow"):
        embedded.create_topic(name, 2)
    return BusSettings(bootstrap=embedded.bootstrap, partitions=2)


def until(reached: Any, watcher: Watcher) -> None:
    for _ in range(200):
        watcher.poll(0.05)
        if reached():
            return
    raise AssertionError("not reached")


def test_the_watcher_reads_from_the_start_and_notes_sizes(bus: BusSettings) -> None:
    tally, noted = Tally(), []
    watcher = Watcher(bus, {"labels": 2, "features.flow": 2}, tally, lambda *place: noted.append(place))
    producer = Producer({"bootstrap.servers": bus.bootstrap, "log_level": 0})
    record = {
        "flow_id": "0" * 16,
        "probe": "p",
        "label": "x",
        "source": "s",
        "start_ns": 1,
        "published_time_ns": 1,
    }
    value = encode("Label", record)
    for _ in range(2):
        producer.produce("labels", value, partition=1)
    producer.produce("features.flow", feature_batch(4).encode(), partition=0)
    assert producer.flush(20) == 0
    until(lambda: tally.labels == 2 and tally.flows_ended == 4, watcher)
    watcher.close()
    labels = [place for place in noted if place[0] == "labels"]
    assert labels == [("labels", 1, len(value), 0), ("labels", 1, len(value), 1)]
    assert watcher.missing == 0


def test_the_watcher_counts_what_the_broker_dropped(bus: BusSettings) -> None:
    producer = Producer({"bootstrap.servers": bus.bootstrap, "log_level": 0})
    value = feature_batch(6000).encode()
    sent = PARTITION_BYTES // len(value) + 5
    for _ in range(sent):
        producer.produce("features.flow", value, partition=0)
        assert producer.flush(20) == 0
    tally = Tally()
    watcher = Watcher(bus, {"features.flow": 2}, tally, lambda *place: None)
    until(lambda: watcher.missing + tally.flows_ended // 6000 == sent, watcher)
    watcher.close()
    assert watcher.missing == 5


def test_commits_are_those_of_the_group(bus: BusSettings) -> None:
    commits = Commits(bus)
    assert commits("g", []) == {}
    assert commits("g", [("labels", 0)]) == {("labels", 0): 0}
    client = Consumer({"bootstrap.servers": bus.bootstrap, "group.id": "g", "log_level": 0})
    client.commit(offsets=[TopicPartition("labels", 0, 5)], asynchronous=False)
    client.close()
    assert commits("g", [("labels", 0), ("labels", 1)]) == {("labels", 0): 5, ("labels", 1): 0}
    commits.close()


def test_children_that_end_are_told_with_their_last_words(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("check", ["--config", "absent.toml"])
        child.process.wait(60)
        with pytest.raises(
            FlowgaugeError, match=r"check ended with 3: flowgauge: error: absent\.toml: cannot"
        ):
            children.check()


def test_children_that_do_not_listen_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowgauge.demo.children.STOP_TIMEOUT_S", 0.2)
    children = Children(tmp_path)
    child: Child = children.start("broker", ["embedded"])
    deadline = time.monotonic() + 60
    while "bootstrap" not in child.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.process.send_signal(signal.SIGSTOP)
    assert children.stop() == ["broker"]
    assert child.process.returncode == -signal.SIGKILL
