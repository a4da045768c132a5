from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient

from tests.flowgauge.test_bench import capture
from tests.waiting import wait_until

COMMAND = [sys.executable, "-m", "flowgauge", "bench", "--stages", "bus", "--json"]


def topics(bootstrap: str) -> list[str]:
    found = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).topics
    return [name for name in found if name.startswith("bench-")]


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def test_every_packet_through_the_bus_is_accounted_for(bootstrap: str, tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", 3000)
    arguments = [path, "--packets", "1000000", "--bus", bootstrap, "--set", "bus.partitions=3"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (result,) = found["results"]
    assert (result["name"], result["unit"], result["accounted"]) == ("bus", "packets/s", True)
    packets = found["capture"]["packets"]
    assert packets == 334 * 3000
    assert result["packets"] == packets
    assert result["books"] == {
        "sent": packets, "acked": packets, "counted": packets, "in_flow_records": packets,
        "missing": 0, "duplicate": 0, "dead_letters": 0, "balanced": True,
    }  # fmt: skip
    assert result["value"] > 0
    assert set(result["cpu_s"]) == {"replay", "worker", "broker"}
    assert topics(bootstrap) == []


def alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and that nobody asked after does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_an_interrupted_run_leaves_nothing_behind(bootstrap: str, tmp_path: Path) -> None:
    arguments = [capture(tmp_path / "a.pcap", 3000), "--packets", "1000000000", "--bus", bootstrap]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "replaying" in line:
                break
        wait_until(lambda: len(children_of(process.pid)) == 2, 120)  # the worker is ready, the replay runs
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        rest = process.stderr.read()
    assert "Traceback" not in rest
    # A child that was only just started dies with its parent, which takes a moment.
    wait_until(lambda: not any(alive(child) for child in children), 20)
    wait_until(lambda: topics(bootstrap) == [], 20)


def test_without_a_broker_it_ends_with_one_line(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", 3000)
    done = subprocess.run(
        [*COMMAND, path, "--bus", "127.0.0.1:9", "--set", "bus.connect_timeout_s=1"],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, "FLOWGAUGE_DEBUG": ""},
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("flowgauge: error: ")
