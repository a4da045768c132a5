"""Faults on a real Kafka, from the packets to the predictions: nothing lost, no id doubled, every event counted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from infra.broker.kafka import KafkaBroker
from producers.config import ReplaySettings
from producers.probes import parse_probes
from producers.replay import ReplayOptions, run_replay
from producers.summary import ReplaySummary
from schemas.codec import decode
from schemas.packets import decode_packet_batch
from schemas.topics import TOPICS
from tests.broker.flows import PARTITIONS, ROOT, Worker, messages, offline_rows
from tests.broker.forked import Forked
from tests.broker.pipeline import MODEL_TOPICS, Pipeline, offline_prediction_ids
from tests.waiting import wait_until

PACKETS = 63_777
"""In the shipped capture."""


@pytest.fixture
def pipeline(bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(bootstrap, topic_prefix, tmp_path, forked=True)
    made.create_topics()
    yield made
    made.end()


def flowgauge(pipeline: Pipeline, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the pipeline's bus."""
    settings = (f"bus.topic_prefix={pipeline.prefix}", f"bus.partitions={PARTITIONS}")
    more = [word for setting in settings for word in ("--set", setting)]
    out, err = (pipeline.folder / f"command.{kind}" for kind in ("out", "err"))
    command = [*arguments, "--bus", pipeline.bootstrap, *more]
    code = Forked(command, out, err).wait(120)
    return subprocess.CompletedProcess(
        command, code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
    )


def assert_whole(pipeline: Pipeline, capture: str) -> None:
    """Check that rows and predictions are those of an undisturbed run, each once."""
    assert pipeline.rows() == offline_rows(capture)
    found = [p["prediction_id"] for p in pipeline.predictions()]
    assert len(found) == len(set(found))
    assert set(found) == offline_prediction_ids(capture)


def test_a_broker_killed_in_the_middle_of_a_replay(
    broker: KafkaBroker, demo_capture: Path, tmp_path: Path
) -> None:
    capture, done = str(demo_capture), list[ReplaySummary]()
    offline_rows(capture)  # compiles: the replay shall not wait for that
    with KafkaBroker() as own:
        pipeline = Pipeline(own.bootstrap, "", tmp_path, forked=True)
        pipeline.create_topics()
        settings = ReplaySettings(rebase="keep", batch_packets=100, max_gap_s=2)
        options = ReplayOptions(8.0, settings=settings)
        replay = Thread(
            target=lambda: done.append(run_replay(parse_probes([capture], ["gate"]), pipeline.bus, options))
        )
        try:
            flows, model = pipeline.start(), pipeline.start_model()
            pipeline.wait_members(1)
            replay.start()
            wait_until(lambda: sum(pipeline.ends()) > 100, 60)
            own.kill()
            assert replay.is_alive()
            time.sleep(1)
            own.restart()
            replay.join(90)
            (summary,) = done
            assert summary.packets_acked == summary.total("packets_accepted") == PACKETS
            pipeline.wait_done(90)
            pipeline.wait_predicted()
            assert flows.stop() == model.stop() == 0
            assert_whole(pipeline, capture)
            assert flows.counters["packets"] == PACKETS
            assert flows.counters["batches_missing"] == flows.counters["batches_duplicate"] == 0
        finally:
            pipeline.end()


def poison(schema: str) -> list[bytes]:
    """Return what no reader can use: nothing, no Avro, and the head of a real message without its body."""
    found: list[bytes] = [b"", b"\x00poison"]
    for path in (ROOT / "tests" / "golden" / "messages").glob(f"{schema}.avro"):
        found.append(path.read_bytes()[:12])
    return found


def test_poison_on_every_topic_is_set_aside(pipeline: Pipeline, demo_capture: Path) -> None:
    capture = str(demo_capture)
    put = {t.name: poison(t.schema) for t in TOPICS}
    for topic in TOPICS:
        for partition in range(topic.partitions(PARTITIONS)):
            pipeline.put(topic.name, put[topic.name], partition)
    flows, model = pipeline.start(), pipeline.start_model()
    pipeline.wait_members(1)
    pipeline.produce(messages(capture, 500))
    pipeline.wait_done()
    pipeline.wait_predicted()
    assert flows.stop() == model.stop() == 0

    letters = [v for v in pipeline.read("dead-letters") if v not in put["dead-letters"]]
    found = sorted(
        (d["topic"], d["partition"], d["message"]) for d in (decode("DeadLetter", v) for v in letters)
    )
    used = ("packets", *MODEL_TOPICS)
    assert found == sorted(
        (pipeline.prefix + t, p, value) for t in used for p in range(PARTITIONS) for value in put[t]
    )
    assert flows.counters["messages_set_aside"] == PARTITIONS * len(put["packets"])
    assert model.counters["messages_set_aside"] == PARTITIONS * sum(len(put[t]) for t in MODEL_TOPICS)
    assert flows.counters["packets"] == PACKETS

    costs = flowgauge(pipeline, "costs", "--once", "--json")
    assert "Traceback" not in costs.stderr
    stages = json.loads(costs.stdout)["stages"]
    assert stages["flows"]["items_in"] == PACKETS
    for topic in TOPICS:
        done = flowgauge(pipeline, "tail", topic.name, "--no-follow", "--json")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        # Of a feature batch there is a line for each row, of other messages one.
        by_row = topic.schema == "FeatureBatch"
        places = {(line["kafka_partition"], line["kafka_offset"]) for line in lines} if by_row else lines
        unread = re.findall(r"\[\d+\]@\d+: cannot be decoded: ", done.stderr)
        assert len(places) + len(unread) == sum(pipeline.ends(topic.name, topic.partitions(PARTITIONS)))
        assert len(unread) == len(put[topic.name]) * topic.partitions(PARTITIONS)


_SLOW = """
import sys, time
from streams.agent import FlowsAgent
quick = FlowsAgent.on_message
def on_message(self, message):
    time.sleep(0.004)
    quick(self, message)
FlowsAgent.on_message = on_message
from flowgauge.__main__ import main
main()
"""


def peak_mib(worker: Worker) -> float:
    text = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_slow_consumer_lags_loses_nothing_and_does_not_grow(pipeline: Pipeline, demo_capture: Path) -> None:
    loops, capture = 100, str(demo_capture)
    batches = [(p, decode_packet_batch(value)) for p, value in messages(capture, 2048)]
    worker = pipeline.run("streams", "streams.telemetry_interval_s=0.2", script=_SLOW)
    pipeline.wait_members(1)
    pipeline.produce((p, b.encode()) for p, b in batches)
    pipeline.wait_done()
    before = peak_mib(worker)
    again = [(p, replace(b, epoch=b.epoch + e).encode()) for e in range(1, loops) for p, b in batches]
    sent = sum(len(value) for _, value in again)
    pipeline.produce(again)
    shown: list[subprocess.CompletedProcess[str]] = []

    def lag_is_told() -> bool:
        shown.append(flowgauge(pipeline, "costs", "--once"))
        return shown[-1].returncode == 1

    wait_until(lag_is_told, 30)
    pipeline.wait_done()
    grown = peak_mib(worker) - before
    assert grown < 100 < sent / 2**20
    assert worker.stop() == 0
    assert worker.counters["packets"] == loops * PACKETS
    assert worker.counters["batches_missing"] == worker.counters["batches_duplicate"] == 0
    told = [r for r in pipeline.telemetry() if r["stage"] == "flows"]
    assert max(r["lag_records"] or 0 for r in told) > 200
    assert max(r["gauges"].get("lag_s", 0) for r in told) > 1
    assert sum(r["items_in"] for r in told) == sum(r["items_out"] for r in told) == loops * PACKETS
    assert re.search(r"flows lags: [\d,]+ messages, \d+\.\d s behind", shown[-1].stdout)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "flowgauge-test", str(folder)]
    done = (
        subprocess.run(command, capture_output=True, text=True, check=False)
        if shutil.which("mount")
        else None
    )
    if done is None or done.returncode:
        pytest.skip("a file system to fill cannot be mounted (not root?)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_for_the_models_state(pipeline: Pipeline, small_disk: Path, demo_capture: Path) -> None:
    capture = str(demo_capture)
    settings: dict[str, Any] = {"state_dir": str(small_disk), "checkpoint_interval_s": 0.2}
    sent = messages(capture, 200)
    flows, model = pipeline.start(), pipeline.start_model(**settings)
    pipeline.produce(sent[:20])
    pipeline.wait_done()
    pipeline.wait_predicted()

    def total(counter: str) -> int:
        return sum(r["counters"].get(counter, 0) for r in pipeline.telemetry())

    wait_until(lambda: total("model_states_saved") > 0, 30)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    rest = iter(sent[20:])

    def one_more(counter: str, than: int) -> bool:
        pipeline.produce(islice(rest, 1))  # a commit brings the next copy with it, once it is time for one
        return total(counter) > than

    wait_until(partial(one_more, "model_states_failed", 0), 60)
    filler.unlink()
    wait_until(partial(one_more, "model_states_saved", total("model_states_saved")), 60)
    pipeline.produce(rest)
    pipeline.wait_done()
    pipeline.wait_predicted()
    assert flows.stop() == model.stop() == 0
    told = [line for line in model.told if "No space left on device" in line]
    assert len(told) == 1
    assert "predicting goes on" in told[0]
    assert_whole(pipeline, capture)
    again = pipeline.start_model(**settings)
    wait_until(lambda: total("model_states_restored") == 1, 30)
    assert again.stop() == 0
