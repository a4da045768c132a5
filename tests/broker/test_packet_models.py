"""The packet model worker on a real broker: payloads wait for a model, and none is lost when it is swapped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from models.packet.card import MODEL_FILE
from producers.bus import BusProducer
from producers.config import BusSettings
from schemas.codec import encode
from tests.broker.test_models import Reader
from tests.models.packet.made import model_folder, payloads
from tests.waiting import wait_until

PARTITIONS = 4
FLOWS = [(i << 62) + i for i in range(4)]


def flowgauge(bus: BusSettings, library: Path, *arguments: str) -> list[str]:
    given = {"bus.topic_prefix": bus.topic_prefix, "bus.partitions": str(PARTITIONS)}
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "flowgauge", "packet-models", *arguments]
    return [*command, "--bus", bus.bootstrap, "--library", str(library), *settings]


def test_a_new_version_goes_live_without_a_lost_packet(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    split = make_topics(PARTITIONS, "payloads", "labels", "predictions.packet", "predictions.flow")
    make_topics(1, "dead-letters", "telemetry.cost")
    models = make_topics(1, "models", config={"cleanup.policy": "compact"})["models"]
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    sink, library = BusProducer(bus), tmp_path / "library"
    said = Reader(bootstrap, split["predictions.packet"], PARTITIONS, "PacketPrediction")
    votes = Reader(bootstrap, split["predictions.flow"], PARTITIONS, "Prediction")

    def put(first: int, count: int) -> int:
        """Send packets ``first``… of each flow; return how many each flow has then."""
        for number in range(first, first + count):
            for partition, flow in enumerate(FLOWS):
                batch = payloads((flow, number, 2), sequence=number - 1, partition=partition)
                sink.produce(split["payloads"], batch.encode(), partition)
        sink.flush(20)
        return first + count - 1

    def publish(version: str) -> None:
        folder = model_folder(tmp_path / "made", version=version)
        done = subprocess.run(
            flowgauge(bus, library, "publish", str(folder)),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"packets/{version} is live")

    def by_version() -> Counter[str]:
        return Counter(r["model_version"] for r in said())

    sent = put(1, 20)
    log = tmp_path / "worker.log"
    with log.open("w") as stderr:
        worker = subprocess.Popen(
            flowgauge(bus, library, "serve", "--json"),
            stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, "FLOWGAUGE_DEBUG": ""},
        )  # fmt: skip
    try:
        wait_until(lambda: "payloads wait on the bus" in log.read_text(), 60)
        publish("1")
        wait_until(lambda: len(said()) == 4 * sent, 60)
        # A version whose file is not what was announced, and a message that is none: refused, and 1 serves on.
        folder = model_folder(tmp_path / "damaged", version="2")
        wrong = {
            "schema_version": 1, "name": "packets", "version": "2", "kind": "svm", "classes": [],
            "uri": str(folder), "sha256": "0" * 64, "card": "{}", "created_ns": 0, "published_time_ns": 5,
        }  # fmt: skip
        sink.produce(models, encode("ModelVersion", wrong), 0, "packets")
        sink.produce(models, b"nonsense", 0, "packets")
        sent = put(sent + 1, 20)
        wait_until(lambda: len(said()) == 4 * sent, 60)
        assert set(by_version()) == {"1"}
        publish("3")

        def swapped() -> bool:
            nonlocal sent
            sent = put(sent + 1, 5)
            return by_version()["3"] > 0

        wait_until(swapped, 60)
        wait_until(lambda: len(said()) == 4 * sent, 60)
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            out, _ = worker.communicate(timeout=60)
        finally:
            worker.kill()
    err = log.read_text()
    assert worker.returncode == 0, err
    counters = json.loads(out)["counters"]
    assert counters["models_changed"] == 1
    assert counters["models_refused"] >= 1
    assert "packets/1 goes on serving" in err
    # Every packet has one prediction, from before and after the swap alike.
    assert sorted((r["flow_id"], r["packet_number"]) for r in said()) == sorted(
        (f"{flow:016x}", number) for flow in FLOWS for number in range(1, sent + 1)
    )
    assert {r["label"] for r in said()} == {"web"}
    assert {(v["flow_id"], v["label"]) for v in votes()} == {(f"{flow:016x}", "web") for flow in FLOWS}
    assert (library / "packets" / "3" / MODEL_FILE).is_file()
