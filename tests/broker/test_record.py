"""``flowgauge record`` on a real Kafka: killed at any moment, each message is recorded once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from flowgauge.cli import invoke
from schemas.codec import encode
from tests.flowgauge.recording.made import batch, files, flow_ids, ids_of
from tests.schemas.messages import RECORDS
from tests.waiting import wait_until

MESSAGES = 2_000
"""Of each topic, over all partitions."""


def test_killed_again_and_again_every_message_is_recorded_once(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    make_topics(3, "features.flow", "predictions.flow")
    make_topics(1, "dead-letters", "telemetry.cost")
    settings = {
        "bus.topic_prefix": topic_prefix,
        "record.telemetry_interval_s": "0",
        "bus.bootstrap": bootstrap,
    }
    words = [
        "record",
        "-o",
        str(tmp_path),
        "--topics",
        "features.flow,predictions.flow",
        "--roll-rows",
        "120",
    ]
    words += ["--roll-s", "0.2", *(w for k, v in settings.items() for w in ("--set", f"{k}={v}"))]
    done = threading.Event()

    def feed() -> None:
        producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
        for number in range(MESSAGES):
            producer.produce(f"{topic_prefix}features.flow", batch(number).encode(), partition=number % 3)
            value = encode("Prediction", {**RECORDS["Prediction"], "prediction_id": f"{number:016x}"})
            producer.produce(f"{topic_prefix}predictions.flow", value, partition=number % 3)
            if number % 20 == 0:
                producer.poll(0)
                time.sleep(0.06)
        assert producer.flush(60) == 0
        done.set()

    def got_on(known: int) -> bool:
        found = files(tmp_path)
        rows = sum(pq.read_metadata(tmp_path / name).num_rows for name in found)
        return len(found) > known or rows == len(ids_of(range(MESSAGES))) + MESSAGES

    feeder = threading.Thread(target=feed)
    feeder.start()
    seen: set[str] = set()
    kills = 0
    while not done.is_set() or kills < 3:
        process = subprocess.Popen([sys.executable, "-m", "flowgauge", *words], stderr=subprocess.PIPE)
        # However slow the machine: it gets on a little in every round, and ends in the middle of something.
        wait_until(partial(got_on, len(seen)), 60)
        time.sleep(random.uniform(0, 0.6))
        process.kill()
        _, err = process.communicate(timeout=10)
        assert err == b""
        kills += 1
        now = files(tmp_path)
        assert seen <= set(now)  # what was visible stays
        seen = set(now)
        for name in now:
            pq.read_metadata(tmp_path / name)
    feeder.join(60)
    assert invoke([*words, "--no-follow"]) == 0
    assert flow_ids(tmp_path / f"topic={topic_prefix}features.flow") == ids_of(range(MESSAGES))
    predictions: Counter[str] = Counter()
    for name in files(tmp_path):
        if "predictions" in name:
            predictions.update(pq.read_table(tmp_path / name)["prediction_id"].to_pylist())
    assert predictions == {f"{number:016x}": 1 for number in range(MESSAGES)}
