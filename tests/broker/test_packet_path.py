"""The whole way of a packet model, by the commands that a user types: from a labelled capture to predictions."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from producers.labels import COLUMNS
from tests.broker.test_models import Reader
from tests.producers.frames import Record, ethernet, ip4, pcap, udp
from tests.waiting import wait_until

# Not imported: the commands do that, in processes of their own.
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("keras", "tensorflow", "tf2onnx", "sklearn", "onnxruntime"))),
    reason="needs the extras study and packet",
)

PARTITIONS = 4
FLOWS = 24
PACKETS = 5
SAMPLED = 3
START_NS = 1_700_000_000_000_000_000
CLASSES = ("chat", "mail")


def labelled_capture(folder: Path) -> tuple[str, str]:
    """Write a capture of flows from port 1000 on, whose octets tell their class, and the labels; return the paths."""
    rng = np.random.default_rng(1)
    records, lines = [], [",".join(COLUMNS)]
    for flow in range(FLOWS):
        times = [START_NS + (flow * PACKETS + i) * 1_000_000 for i in range(PACKETS)]
        for time_ns in times:
            payload = bytes(rng.integers(0, 60, 200, np.uint8) + np.uint8(150 * (flow % 2)))
            packet = ip4(udp(1000 + flow, 53, payload), protocol=17)
            records.append(Record(ethernet(packet), time_ns))
        lines.append(f"10.0.0.1,10.0.0.2,{1000 + flow},53,17,{times[0]},{times[-1]},{CLASSES[flow % 2]}")
    capture, labels = folder / "small.pcap", folder / "labels.csv"
    capture.write_bytes(pcap(records, nanoseconds=True))
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(capture), str(labels)


def test_from_a_capture_to_predictions(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    split = make_topics(PARTITIONS, "packets", "payloads", "labels", "predictions.packet", "predictions.flow")
    make_topics(1, "dead-letters", "telemetry.cost")
    make_topics(1, "models", config={"cleanup.policy": "compact"})
    on_bus = ["--bus", bootstrap, "--set", f"bus.topic_prefix={topic_prefix}"]
    on_bus += ["--set", f"bus.partitions={PARTITIONS}"]
    library = ["--library", str(tmp_path / "library")]

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "flowgauge", *arguments]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            command(*arguments), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    capture, labels = labelled_capture(tmp_path)
    run("dataset", capture, "--labels", labels, "-o", "dataset")
    run(
        "study", "packets", "dataset", "-o", "study", "--quick", "--models", "svm", "--split", "flow",
        "--no-speeds",
    )  # fmt: skip
    (point,) = (tmp_path / "study" / "points").glob("flow-svm-*.json")
    run("study", "export", str(point), "-o", "models", "--name", "packets", "--version", "1")
    said = Reader(bootstrap, split["predictions.packet"], PARTITIONS, "PacketPrediction")
    worker = subprocess.Popen(
        command("packet-models", "serve", "--json", *library, *on_bus),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        run("packet-models", "publish", "models/packets/1", *library, *on_bus)
        run("replay", f"gate={capture}", "--payloads", "first", "--speed", "max", "--rebase", "keep", *on_bus)
        wait_until(lambda: len(said()) == FLOWS * SAMPLED, 90)
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            _, err = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert worker.returncode == 0, err
    assert sorted((r["source_port"], r["packet_number"], r["label"]) for r in said()) == [
        (1000 + flow, number, CLASSES[flow % 2]) for flow in range(FLOWS) for number in range(1, SAMPLED + 1)
    ]
    assert {(r["model"], r["model_version"], r["probe"]) for r in said()} == {("packets", "1", "gate")}
    costs = json.loads(run("costs", "--once", "--json", *on_bus))
    assert [hop for hop in costs["hops"] if hop["to"] == "packet-models"] == [
        {
            "from": "payloads", "to": "packet-models", "what": "payloads of packets",
            "sent": FLOWS * SAMPLED, "taken": FLOWS * SAMPLED, "missing": 0,
        }
    ]  # fmt: skip
    assert costs["problems"] == []
