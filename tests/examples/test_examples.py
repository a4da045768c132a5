"""Each example as a process, against predictions on the embedded broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from infra.broker.embedded import EmbeddedBroker
from schemas.codec import encode
from schemas.topics import PREDICTIONS_FLOW
from tests.schemas.messages import RECORDS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LABELS = ["web", "dns", "web", None]


@pytest.fixture
def bus(embedded: EmbeddedBroker) -> str:
    """Address of a broker with a prediction for each of LABELS on every partition but the last."""
    embedded.create_topic(PREDICTIONS_FLOW, 4)
    producer = Producer({"bootstrap.servers": embedded.bootstrap})
    for partition in range(3):
        for number, label in enumerate(LABELS):
            # Every partition holds the same predictions: repeats.
            made = {"prediction_id": f"{number:016x}", "flow_id": f"{number:016x}", "label": label}
            value = encode("Prediction", {**RECORDS["Prediction"], **made})
            producer.produce(PREDICTIONS_FLOW, value, f"{number:016x}", partition)
    assert producer.flush(20) == 0
    return embedded.bootstrap


def run(*arguments: str, timeout_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=EXAMPLES, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environment}
    )  # fmt: skip


def test_a_plain_consumer(bus: str) -> None:
    done = run(sys.executable, "consume_predictions.py", "--bus", bus)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
    assert done.stdout.count(": dns ") == 3
    assert done.stderr == "4 predictions, 0 messages that are none\n"


def test_a_plain_consumer_tells_what_is_no_prediction(bus: str) -> None:
    producer = Producer({"bootstrap.servers": bus})
    producer.produce(PREDICTIONS_FLOW, encode("Label", RECORDS["Label"]), partition=3)
    assert producer.flush(20) == 0
    done = run(sys.executable, "consume_predictions.py", "--bus", bus)
    assert done.returncode == 1
    assert "partition 3 offset 0: not written with Prediction.avsc" in done.stderr
    assert "4 predictions, 1 messages that are none" in done.stderr


@pytest.mark.skipif(
    shutil.which("kcat") is None and not os.environ.get("FLOWGAUGE_CI"),
    reason="no kcat (Debian: apt-get install kcat)",
)
def test_kcat(bus: str) -> None:
    done = run("./kcat.sh", bus, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert 'topic "predictions.flow" with 4 partitions' in done.stdout
    assert done.stdout.count("0000000000000003  [") == 3
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [record["label"] for record in records] == LABELS[:3]
    assert {**RECORDS["Prediction"], "label": "web"}.keys() == records[0].keys()


def test_duckdb(bus: str) -> None:
    pytest.importorskip("duckdb")
    done = run(sys.executable, "duckdb_predictions.py", "--bus", bus)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {cell[0]: cell[1:3] for cell in cells if len(cell) == 4}
    assert rows["web"] == ["2", "6"]
    assert rows["dns"] == ["1", "3"]
    assert rows["NULL"] == ["1", "3"]
    assert "bus_to_model_ms" in done.stdout


def test_a_faust_agent(bus: str, tmp_path: Path) -> None:
    pytest.importorskip("faust")
    log = tmp_path / "log"
    expected = "{'web': 6, 'dns': 3, '(none yet)': 3}"
    with log.open("w") as out:
        worker = subprocess.Popen(
            [sys.executable, "faust_agent.py", "worker", "-l", "warn"],
            cwd=EXAMPLES, env={**os.environ, "BUS": bus}, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while expected not in log.read_text() and time.monotonic() < deadline and worker.poll() is None:
                time.sleep(0.2)
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
    assert expected in log.read_text()
