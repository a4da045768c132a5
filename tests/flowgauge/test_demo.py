"""The demo as it is: processes, embedded broker, replay, predictions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def children_of(pid: int) -> set[int]:
    """Return the pids of a process's children (Linux)."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(text) for text in found.read_text().split()} if found.exists() else set()


@pytest.mark.timeout(180)
def test_the_demo_predicts_and_adds_up(demo_capture: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowgauge", "demo", "--seconds", "8", "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [entry for entry in found["accounting"] if not entry["holds"]] == []
    assert found["interrupted"] is False
    assert found["flows"]["begun"] == found["flows"]["ended"] > 1000
    assert found["predictions"] == found["rows"]["early"] + found["rows"]["flow"]
    assert found["labels"] == sum(1 for _ in demo_capture.with_name("demo.labels.csv").open()) - 1
    assert len(found["classes"]) >= 8
    # Far above chance (the largest class is a sixth of the flows), from nothing in one pass.
    at_end = next(row for row in found["accuracy"]["by_depth"] if row["when"] == "at the flow's end")
    assert at_end["accuracy"] > 0.6
    assert found["cost"]["flows"]["cpu_ns_per_item"] > 0
    assert found["cost"]["models"]["latency_p50_ns"] > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["starting", "replaying"])
def test_ctrl_c_ends_the_demo_and_its_workers(moment: str, demo_capture: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowgauge", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if f" s {moment}" in line:
            break
    time.sleep(0.3)
    children = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert " s interrupted" in out.splitlines()[-1]
    assert children
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
