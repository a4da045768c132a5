"""``flowgauge streams`` and ``flowgauge models`` as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.broker.embedded import EmbeddedBroker
from schemas.codec import decode
from schemas.topics import TOPICS
from tests.waiting import wait_until


@pytest.fixture
def bootstrap(embedded: EmbeddedBroker) -> str:
    for topic in TOPICS:
        embedded.create_topic(topic.name, topic.partitions(2))
    return embedded.bootstrap


def worker(name: str, bootstrap: str, directory: Path) -> subprocess.Popen[str]:
    flags = [f"{name}.fetch_wait_s=0.02", "bus.partitions=2", "bus.connect_timeout_s=1"]
    arguments = [part for flag in flags for part in ("--set", flag)]
    return subprocess.Popen(
        [sys.executable, "-m", "flowgauge", name, "--bus", bootstrap, "--json", *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_telemetry(bootstrap: str, stage: str) -> None:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "test", "log_level": 0, "fetch.wait.max.ms": 20}
    )
    consumer.assign([TopicPartition("telemetry.cost", 0, 0)])

    def told() -> bool:
        messages = [message for message in consumer.consume(10, 0.1) if not message.error()]
        return any(decode("CostTelemetry", message.value())["stage"] == stage for message in messages)

    try:
        wait_until(told, 90)
    finally:
        consumer.close()


@pytest.mark.parametrize(
    ("name", "stage", "number", "code"),
    [
        ("streams", "flows", signal.SIGTERM, 0),
        ("streams", "flows", signal.SIGINT, 130),
        ("models", "models", signal.SIGTERM, 0),
        ("models", "models", signal.SIGINT, 130),
    ],
)
def test_a_worker_stops_in_order(
    name: str, stage: str, number: signal.Signals, code: int, bootstrap: str, tmp_path: Path
) -> None:
    process = worker(name, bootstrap, tmp_path)
    try:
        wait_for_telemetry(bootstrap, stage)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (code, "")
    assert json.loads(out)["stage"] == name


@pytest.mark.parametrize("name", ["streams", "models"])
def test_a_worker_without_a_broker_says_so_and_ends(name: str, tmp_path: Path) -> None:
    process = worker(name, "127.0.0.1:1", tmp_path)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4
    lines = err.splitlines()
    assert len(lines) == 2, err
    assert "trying for 1 s" in lines[0]
    assert lines[1].startswith("flowgauge: error: bus 127.0.0.1:1: no broker answered within 1 s")


def test_a_worker_names_a_missing_topic(embedded: EmbeddedBroker, tmp_path: Path) -> None:
    process = worker("streams", embedded.bootstrap, tmp_path)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 4
    assert "missing topics: packets, " in err
