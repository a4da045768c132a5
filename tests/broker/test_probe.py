"""``flowgauge probe`` on a loopback interface and real Kafka: every packet, once, through two processes and back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowgauge.bench.accounting import BusReader
from producers.config import BusSettings
from producers.probe.ring.filters import compile_filter
from schemas.codec import decode
from schemas.errors import SettingsError
from schemas.packets import decode_packet_batch
from schemas.topics import TELEMETRY_COST
from tests.broker.test_replay import read_all
from tests.waiting import wait_until

PARTITIONS = 4
FLOWS, EACH = 20, 50
LIMIT_S = 240.0


def probe(arguments: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flowgauge", "probe", "--interface", "lo", *arguments]
    # The shell that runs tests in the background has signals ignored that the probe is sent here.
    with (tmp_path / "err").open("w") as err:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, restore_signals=True)


@pytest.mark.root
@pytest.mark.parametrize("processes", [1, 2])
def test_every_packet_reaches_the_topic_once_and_the_end_is_marked(
    bootstrap: str,
    topic_prefix: str,
    make_topics: Callable[..., dict[str, str]],
    tmp_path: Path,
    processes: int,
) -> None:
    if os.geteuid():
        pytest.skip("live capture needs root")
    try:
        compile_filter("udp", 1, 100)
    except SettingsError as error:
        pytest.skip(str(error))
    topics = make_topics(PARTITIONS, "packets")
    cost = make_topics(1, TELEMETRY_COST)[TELEMETRY_COST]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        settings = {
            "bus.bootstrap": bootstrap, "bus.topic_prefix": topic_prefix, "bus.partitions": PARTITIONS,
            "probe.name": "gate", "probe.processes": processes, "probe.ring_mbytes": 4,
            "probe.filter": f"udp dst port {port}",
        }  # fmt: skip
        flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        running = probe([*flags, "--json"], tmp_path)
        reader = BusReader(BusSettings(bootstrap=bootstrap, topic_prefix=topic_prefix))
        try:
            wait_until(
                lambda: running.poll() is not None or reader.end(TELEMETRY_COST, 0) >= processes, LIMIT_S
            )
            assert running.poll() is None, (tmp_path / "err").read_text()
            senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]
            for _ in range(EACH):
                for sender in senders:
                    sender.sendto(b"x" * 40, ("127.0.0.1", port))
            for sender in senders:
                sender.close()
            running.send_signal(signal.SIGTERM)
            out, _ = running.communicate(timeout=LIMIT_S)
        finally:
            running.kill()
            reader.close()
    assert running.returncode == 0, (tmp_path / "err").read_text()
    summary = json.loads(out)
    total = FLOWS * EACH
    counted = {name: summary["packets"][name] for name in ("seen", "sent", "acked", "failed")}
    assert counted == {"seen": total, "sent": total, "acked": total, "failed": 0}
    assert summary["packets"]["skipped"] == {}
    assert summary["events"]["loopback_copies"] == total
    batches = [
        decode_packet_batch(value)
        for p in range(PARTITIONS)
        for value in read_all(bootstrap, topics["packets"], p)
    ]
    assert sum(batch.packets for batch in batches) == total
    assert sum(batch.end_of_stream for batch in batches) == PARTITIONS
    assert {(b.probe, b.replayed) for b in batches} == {("gate", False)}
    records = [decode("CostTelemetry", value) for value in read_all(bootstrap, cost, 0)]
    assert sum(record["items_in"] for record in records if record["stage"] == "probe") == total
