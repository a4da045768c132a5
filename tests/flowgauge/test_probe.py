"""``flowgauge probe``: what it says where it cannot start, its check, and the processes that share the work."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowgauge.cli import invoke
from flowgauge.interrupt import Stop
from flowgauge.probe_processes import ProcessFailed, run_processes
from flowgauge.probing import _together
from producers.probe.ring.sockets import CaptureError
from schemas.errors import InputError, SettingsError

NO_BUS = ["--bus", "127.0.0.1:1", "--set", "bus.connect_timeout_s=0.2"]


def test_without_an_interface_there_is_nothing_to_do() -> None:
    with pytest.raises(SettingsError, match="name an interface"):
        invoke(["probe"])


def test_an_interface_that_there_is_not_is_named() -> None:
    with pytest.raises(CaptureError, match="interface nothere: there is none of this name"):
        invoke(["probe", "-i", "nothere"])


def test_the_check_says_what_is_missing_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["probe", "--check", "-i", "nothere", *NO_BUS]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = {line[6:28].strip(): line[:4].strip() for line in lines}
    assert found.pop("clock") in ("ok", "FAIL") and found.pop("rights") in ("ok", "FAIL")
    assert found == {
        "interface nothere": "FAIL", "ring nothere": "FAIL", "bus": "FAIL", "topics": "FAIL", "schema": "ok",
    }  # fmt: skip
    assert invoke(["probe", "--check", "--json", "-i", "nothere", *NO_BUS]) == 1
    assert next(finding["what"] for finding in json.loads(capsys.readouterr().out)) == "interface nothere"


def counting(number: int, taking_over: bool, stop: Stop) -> dict[str, Any]:
    stop.event.wait(30)
    return {"number": number, "took_over": taking_over}


def test_processes_are_stopped_together_and_tell_what_they_did() -> None:
    stop = Stop()
    threading.Timer(0.3, stop.event.set).start()
    summaries, restarts = run_processes(3, counting, stop, threading.Event())
    assert [summary["number"] for summary in summaries] == [0, 1, 2] and restarts == 0


def test_a_stop_that_comes_before_a_process_listens_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first thing that a new process does.
    monkeypatch.setattr("os.setpgid", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    summaries, restarts = run_processes(2, counting, Stop(), threading.Event())
    assert [summary["number"] for summary in summaries] == [0, 1] and restarts == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    stop = Stop()

    def work(number: int, taking_over: bool, stop: Stop) -> dict[str, Any]:
        if number == 1 and not taking_over:
            os.kill(os.getpid(), signal.SIGKILL)
        if taking_over:
            (tmp_path / "took over").touch()
        return counting(number, taking_over, stop)

    def watch() -> None:
        for _ in range(600):
            if (tmp_path / "took over").exists():
                break
            time.sleep(0.05)
        stop.event.set()

    threading.Thread(target=watch).start()
    summaries, restarts = run_processes(2, work, stop, threading.Event())
    assert restarts == 1
    assert summaries == [{"number": 0, "took_over": False}, {"number": 1, "took_over": True}]


def test_a_process_that_fails_ends_the_others_with_its_code() -> None:
    def work(number: int, taking_over: bool, stop: Stop) -> dict[str, Any]:
        if number == 0:
            raise InputError("the source is gone")
        return counting(number, taking_over, stop)

    with pytest.raises(ProcessFailed) as failure:
        run_processes(2, work, Stop(), threading.Event())
    assert failure.value.code == InputError.exit_code


def test_summaries_of_processes_add_up() -> None:
    one = {
        "probe": "a", "sources": ["eth0"], "duration_s": 2.0, "turn_max_ms": 3.0,
        "packets": {"sent": 10, "skipped": {}},
        "packets_per_s": 5.0, "events": {"reloads": 1},
    }  # fmt: skip
    two = {**one, "duration_s": 4.0, "packets": {"sent": 30, "skipped": {"not_ip": 2}}, "turn_max_ms": 1.0}
    whole = _together([one, two], 1)
    assert whole["packets"] == {"sent": 40, "skipped": {"not_ip": 2}} and whole["events"] == {"reloads": 2}
    assert (whole["duration_s"], whole["packets_per_s"], whole["turn_max_ms"]) == (4.0, 10.0, 3.0)
    assert (whole["probe"], whole["processes"], whole["restarts"]) == ("a", 2, 1)
