"""The model worker on a real broker: learns, predicts, sets poison aside, and repeats nothing after a stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from models.online.backlog import positions
from models.online.config import OnlineSettings
from producers.bus import BusProducer
from producers.config import BusSettings
from schemas.codec import decode, encode
from schemas.flow_key import partition_of
from tests.models.online.batches import feature_batch, label
from tests.waiting import wait_until

PARTITIONS = 4
FLOWS = [(i << 58) + i for i in range(1, 41)]

_WORKER = """
import json, sys
from models.online.config import OnlineSettings
from models.online.worker import run_worker
from producers.config import BusSettings
bus = BusSettings(**json.loads(sys.argv[1]))
settings = {"classifier": "naive_bayes", "commit_interval_s": 0.1, **json.loads(sys.argv[2])}
code, counts, summary = run_worker(OnlineSettings(**settings), bus)
print(json.dumps([counts, summary["scores"]]))
sys.exit(code)
"""


class Reader:
    """Everything on one topic so far, decoded; read on at each call."""

    def __init__(self, bootstrap: str, topic: str, partitions: int, schema: str) -> None:
        self.schema = schema
        self.records: list[dict[str, Any]] = []
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "log_level": 0})
        self._consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)])

    def __call__(self) -> list[dict[str, Any]]:
        while found := self._consumer.consume(1000, timeout=0.3):
            for message in found:
                assert message.error() is None, message.error()
                self.records.append(decode(self.schema, message.value()))
        return self.records

    def total(self, counter: str) -> int:
        """Return the sum of a counter over telemetry records."""
        return sum(int(r["counters"].get(counter, 0)) for r in self())


def start(bus: BusSettings, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, bus.model_dump_json(), json.dumps(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop(worker: subprocess.Popen[str]) -> tuple[dict[str, int], dict[str, Any], str]:
    worker.send_signal(signal.SIGTERM)
    try:
        out, err = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0, err
    counts, scores = json.loads(out)
    return counts, scores, err


def test_learns_answers_sets_poison_aside_and_repeats_nothing(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]]
) -> None:
    split = make_topics(PARTITIONS, "features.early", "features.flow", "labels", "predictions.flow")
    single = make_topics(1, "dead-letters", "telemetry.cost")
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    sink = BusProducer(bus)

    def put(topic: str, value: bytes, flow: int) -> None:
        sink.produce(split[topic], value, partition_of(np.uint64(flow), PARTITIONS))

    def features(representation: str, depth: int) -> None:
        for i, flow in enumerate(FLOWS):
            rows = [[100 * (i % 2), 5, 64]]
            batch = feature_batch([flow], rows, representation=representation, depth=depth)
            put(f"features.{representation}", batch.encode(), flow)

    predictions = Reader(bootstrap, split["predictions.flow"], PARTITIONS, "Prediction")
    costs = Reader(bootstrap, single["telemetry.cost"], 1, "CostTelemetry")
    letters = Reader(bootstrap, single["dead-letters"], 1, "DeadLetter")

    features("early", 1)
    for topic in ("features.early", "features.flow", "labels"):
        put(topic, b"poison", FLOWS[0])
    sink.flush(20)
    worker = start(bus)
    try:
        wait_until(lambda: len(predictions()) == len(FLOWS), 60)
        for i, flow in enumerate(FLOWS):
            put("labels", encode("Label", label(flow, ("dns", "web")[i % 2])), flow)
        sink.flush(20)
        wait_until(lambda: costs.total("rows_learned") == len(FLOWS), 30)
        features("early", 8)
        features("flow", 20)
        sink.flush(20)
        wait_until(lambda: len(predictions()) == 3 * len(FLOWS), 30)
    finally:
        counts, scores, told = stop(worker)
    said = predictions()
    assert len({p["prediction_id"] for p in said}) == len(said) == 3 * len(FLOWS)
    assert [p["label"] for p in said if p["depth"] == 1] == [None] * len(FLOWS)
    right = {f"{flow:016x}": ("dns", "web")[i % 2] for i, flow in enumerate(FLOWS)}
    assert all(p["label"] == right[p["flow_id"]] for p in said if p["depth"] == 8)
    assert counts["rows_learned"] == counts["rows_received"] == 3 * len(FLOWS)
    assert counts["messages_set_aside"] == 3
    assert scores["early@8"]["accuracy"] == 1.0
    assert told.count("cannot be used") == 3
    assert sorted(x["topic"] for x in letters()) == sorted(
        split[t] for t in ("features.early", "features.flow", "labels")
    )

    again = start(bus)
    try:
        features("early", 9)
        sink.flush(20)
        wait_until(lambda: len(predictions()) >= 4 * len(FLOWS), 60)
    finally:
        counts, _, _ = stop(again)
    assert len(predictions()) == 4 * len(FLOWS)
    # It went on with the model of the first: what that learned is in it, and no message came twice.
    assert counts["rows_received"] == counts["rows_learned"] == 4 * len(FLOWS)
    assert counts["model_states_restored"] == 1
    assert counts.get("messages_redelivered", 0) == 0


def test_a_killed_worker_goes_on_with_what_it_had_learned(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    split = make_topics(PARTITIONS, "features.early", "labels", "predictions.flow")
    single = make_topics(1, "dead-letters", "telemetry.cost")
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    sink = BusProducer(bus)
    costs = Reader(bootstrap, single["telemetry.cost"], 1, "CostTelemetry")
    predictions = Reader(bootstrap, split["predictions.flow"], PARTITIONS, "Prediction")

    def put(topic: str, value: bytes, flow: int) -> None:
        sink.produce(split[topic], value, partition_of(np.uint64(flow), PARTITIONS))

    def teach(first: int, last: int) -> None:
        for i in range(first, last):
            put("labels", encode("Label", label(FLOWS[i], ("dns", "web")[i % 2])), FLOWS[i])
        sink.flush(20)

    def learned() -> int:
        return costs.total("rows_learned")

    def committed() -> bool:
        """Tell whether the group has all labels behind it: what it learned of them twice cannot be told by counts."""
        places = positions(bus, OnlineSettings().group, {"labels": set(range(PARTITIONS))})
        return all(place.committed == place.end for place in places.values() if place.end)

    for i, flow in enumerate(FLOWS):
        put("features.early", feature_batch([flow], [[100 * (i % 2), 5, 64]]).encode(), flow)
    sink.flush(20)
    settings: dict[str, Any] = {
        "representations": ["early"],
        "state_dir": str(tmp_path),
        "checkpoint_interval_s": 3,
        "telemetry_interval_s": 0.5,
        "session_timeout_s": 6,
    }
    worker = start(bus, **settings)
    try:
        wait_until(lambda: len(predictions()) == len(FLOWS), 60)
        teach(0, 20)
        wait_until(lambda: learned() == 20, 30)

        # A commit brings the next copy with it, once it is time for one.
        def saved() -> bool:
            teach(0, 1)
            return costs.total("model_states_saved") > 0

        wait_until(saved, 30)
        teach(20, 30)
        wait_until(lambda: learned() == 30, 30)
    finally:
        worker.kill()
        worker.communicate()
    again = start(bus, **settings)
    try:
        teach(30, 40)
        wait_until(committed, 60)
    finally:
        counts, scores, _ = stop(again)
    assert counts["model_states_restored"] == 1
    assert counts["rows_received"] == counts["rows_learned"] == len(FLOWS)
    assert scores["early@1"]["n"] == len(FLOWS)
    assert len({p["prediction_id"] for p in predictions()}) == len(FLOWS)
