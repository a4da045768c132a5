"""The cascade worker on a real broker: killed while flows wait, and swapped, it leaves no flow without its answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from producers.bus import BusProducer
from producers.config import BusSettings
from schemas.features import FeatureBatch
from tests.broker.test_models import Reader
from tests.models.flow import made, scripted
from tests.waiting import wait_until

PARTITIONS = 2
NAMES = ("octets_1", "octets_2", "octets_3", "ttl")
FLOWS = range(60)


def flowgauge(bus: BusSettings, library: Path, *arguments: str) -> list[str]:
    given = {
        "bus.topic_prefix": bus.topic_prefix,
        "bus.partitions": str(PARTITIONS),
        "cascade.name": "services",
        "cascade.wait_s": "3600",
        "cascade.commit_interval_s": "0.2",
    }
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "flowgauge", "cascade", *arguments]
    return [*command, "--bus", bus.bootstrap, "--library", str(library), *settings]


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    with log.open("w") as stderr:
        worker = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "FLOWGAUGE_DEBUG": ""},
        )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait(20)


def flow_id(flow: int) -> int:
    """Return the id of a flow of partition ``flow`` modulo 2."""
    return ((flow % PARTITIONS) << 63) + flow + 1


def batches(depth: int, flows: range, reason: int = 0) -> Iterator[FeatureBatch]:
    """Yield the rows of flows at a depth, one message for each partition; every third is dns, mail, web."""
    for partition in range(PARTITIONS):
        mine = [flow for flow in flows if flow % PARTITIONS == partition]
        values = made.rows_of([flow % 3 for flow in mine], 3)
        batch = scripted.batch(
            *((flow_id(flow), depth, 0.1 * depth) for flow in mine), names=NAMES, reason=reason
        )
        columns = {**batch.columns, "features": values[:, [0, 1, 2, 3]].astype(np.float32)}
        yield replace(batch, columns=columns, partition=partition)


def test_killed_and_swapped_every_flow_gets_one_final_answer(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    split = make_topics(PARTITIONS, "features.early", "labels", "predictions.flow")
    make_topics(PARTITIONS, "flows.state", config={"cleanup.policy": "compact"})
    make_topics(1, "dead-letters", "telemetry.cost")
    make_topics(1, "models", config={"cleanup.policy": "compact"})
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    sink, library = BusProducer(bus), tmp_path / "library"
    said = Reader(bootstrap, split["predictions.flow"], PARTITIONS, "Prediction")
    saved = Reader(bootstrap, f"{topic_prefix}flows.state", PARTITIONS, "FlowState")

    def put(depth: int, flows: range, reason: int = 0) -> None:
        for batch in batches(depth, flows, reason):
            sink.produce(split["features.early"], batch.encode(), batch.partition)
        sink.flush(20)

    def publish(version: str) -> None:
        folder = made.cascade_folder(tmp_path / "made", version=version)
        done = subprocess.run(
            flowgauge(bus, library, "publish", str(folder)),
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"services/{version} is live")

    def answered(final: bool) -> set[str]:
        return {r["flow_id"] for r in said() if r["final"] == final}

    publish("1")
    serve = flowgauge(bus, library, "serve", "--json")
    with serving(serve, tmp_path / "first.log") as worker:
        put(1, FLOWS)
        wait_until(lambda: len(answered(True) | answered(False)) == len(FLOWS), 120)
        waiting = answered(False) - answered(True)
        assert waiting
        # Both partitions' flows that wait are on the bus; what comes now is not in any copy.
        wait_until(lambda: {r["partition"] for r in saved() if r["offset"]} == {0, 1}, 60)
        worker.send_signal(signal.SIGKILL)
        worker.wait(20)
    put(3, range(40))
    put(2, range(40, 60), reason=1)
    with serving(serve, tmp_path / "second.log") as worker:
        wait_until(lambda: len(answered(True)) == len(FLOWS), 120)
        put(1, range(60, 64))
        publish("2")
        wait_until(lambda: "services/2" in (tmp_path / "second.log").read_text(), 60)

        def swapped() -> bool:
            put(1, range(64, 68))
            return any(r["model_version"] == "2" for r in said())

        wait_until(swapped, 60)
        wait_until(lambda: {f"{flow_id(f):016x}" for f in range(60, 64)} <= answered(True), 60)
        worker.send_signal(signal.SIGTERM)
        out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, (tmp_path / "second.log").read_text()
    counters = json.loads(out)["counters"]
    assert counters["flows_restored"] == len(waiting) and counters["cascades_changed"] == 1
    ids = defaultdict(set)
    for record in said():
        if record["final"]:
            ids[record["flow_id"]].add(record["prediction_id"])
    assert all(len(found) == 1 for found in ids.values())
    # Who waited at the kill and came to packet 3 was told apart for sure, by the worker that was not there before.
    truth = {f"{flow_id(flow):016x}": made.CLASSES[flow % 3] for flow in range(40)}
    truth = {flow: label for flow, label in truth.items() if flow in waiting}
    last = {r["flow_id"]: r["label"] for r in said() if r["final"]}
    assert {flow: last[flow] for flow in truth} == truth
