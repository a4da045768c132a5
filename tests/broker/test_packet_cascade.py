"""A cascade with a packet model on a real broker: features and payloads meet, whichever topic is read first."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from producers.bus import BusProducer
from producers.config import BusSettings
from tests.broker.test_cascade import FLOWS, NAMES, PARTITIONS, flow_id, flowgauge, serving
from tests.broker.test_models import Reader
from tests.models.flow import made, scripted
from tests.models.packet.made import payloads
from tests.waiting import wait_until

WITH_PAYLOAD = range(40)


def test_features_and_payloads_meet_in_one_worker(
    bootstrap: str, topic_prefix: str, make_topics: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    split = make_topics(PARTITIONS, "features.early", "payloads", "labels", "predictions.flow")
    make_topics(PARTITIONS, "flows.state", config={"cleanup.policy": "compact"})
    make_topics(1, "dead-letters", "telemetry.cost")
    make_topics(1, "models", config={"cleanup.policy": "compact"})
    bus = BusSettings(bootstrap=bootstrap, partitions=PARTITIONS, topic_prefix=topic_prefix)
    sink, library = BusProducer(bus), tmp_path / "library"
    said = Reader(bootstrap, split["predictions.flow"], PARTITIONS, "Prediction")
    folder = made.packet_cascade_folder(tmp_path / "made")
    command = flowgauge(bus, library, "publish", str(folder))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    def put(flows: range, reason: int = 0, depth: int = 1) -> None:
        for partition in range(PARTITIONS):
            mine = [flow for flow in flows if flow % PARTITIONS == partition]
            values = made.rows_of([flow % 3 for flow in mine], 3).astype(np.float32)
            rows = scripted.batch(
                *((flow_id(f), depth, 0.1 * depth) for f in mine), names=NAMES, reason=reason
            )
            data = replace(rows, columns={**rows.columns, "features": values}, partition=partition).encode()
            sink.produce(split["features.early"], data, partition)
        sink.flush(20)

    def put_payloads(flows: range, number: int) -> None:
        for partition in range(PARTITIONS):
            mine = [flow for flow in flows if flow % PARTITIONS == partition]
            sent = payloads(*((flow_id(f), number, f % 3) for f in mine), partition=partition)
            sink.produce(split["payloads"], sent.encode(), partition)
        sink.flush(20)

    def answered(final: bool) -> set[str]:
        return {r["flow_id"] for r in said() if r["final"] == final}

    with serving(flowgauge(bus, library, "serve", "--json"), tmp_path / "serve.log") as worker:
        put_payloads(range(20), 4)
        put(FLOWS)
        wait_until(lambda: len(answered(True) | answered(False)) == len(FLOWS), 120)
        sink.produce(split["payloads"], b"nonsense", 0)
        put_payloads(range(20, 40), 4)
        put_payloads(range(40, 60), 3)
        wait_until(lambda: {f"{flow_id(f):016x}" for f in WITH_PAYLOAD} <= answered(True), 60)
        put(range(40, 60), reason=1, depth=3)
        wait_until(lambda: len(answered(True)) == len(FLOWS), 60)
        worker.send_signal(signal.SIGTERM)
        out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, (tmp_path / "serve.log").read_text()
    counters = json.loads(out)["counters"]
    finals = [r for r in said() if r["final"]]
    assert len(finals) == len(FLOWS)
    by_packet = {r["flow_id"]: r["label"] for r in finals if r["tier"] == 2}
    truth = {f"{flow_id(flow):016x}": made.CLASSES[flow % 3] for flow in WITH_PAYLOAD}
    assert by_packet == {flow: truth[flow] for flow in by_packet}
    assert len(by_packet) == counters["answered_packet@4"] >= 10
    assert counters["messages_set_aside"] == 1 and counters["answered_at_end"] > 0
