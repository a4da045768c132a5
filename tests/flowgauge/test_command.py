"""The command as a user meets it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowgauge.outcome import EXIT_CODES

COMMANDS = (
    "demo",
    "replay",
    "streams",
    "models",
    "packet-models",
    "flows",
    "label",
    "labels",
    "tail",
    "topics",
    "check",
    "bench",
    "broker",
)
HASTE = ("--set", "bus.connect_timeout_s=1")
PCAP_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def flowgauge(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowgauge", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "110", **env},
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the single line of stderr; fails where there is more, or a traceback."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("flowgauge: error: ")
    return lines[0].removeprefix("flowgauge: error: ")


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = flowgauge("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout
    words = " ".join(done.stdout.split())
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = flowgauge(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"flowgauge {command}" in done.stdout


def test_no_command_shows_the_help() -> None:
    assert flowgauge().stdout == flowgauge("--help").stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from flowgauge.cli import app; "
        "heavy = {'numpy', 'numba', 'faust', 'river', 'pyarrow', 'confluent_kafka', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["no-such-command"], 2, "no-such-command"),
        (["flows"], 2, "CAPTURE"),
        (["flows", "--no-such-flag", "x"], 2, "--no-such-flag"),
        (["tail", "packets", "--limit", "0"], 2, "--limit"),
        (["flows", "absent.pcap"], 3, "absent.pcap"),
        (["flows", "absent.pcap", "-o", "no/place.csv"], 3, "no/place.csv: cannot write"),
        (["flows", "absent.pcap", "-r", "nope"], 2, "--representation nope: there is early, window, flow"),
        (["replay", "absent.pcap", "--speed", "fast"], 2, "speed 'fast'"),
        (["check", "--set", "bus.partitions=0"], 2, "bus.partitions = '0'"),
        (["flows", "absent.pcap", "--set", "packets.first_packets=-1"], 2, "packets.first_packets = '-1'"),
        (["check", "--config", "absent.toml"], 3, "absent.toml"),
        (["tail", "packets", "--bus", "127.0.0.1:1", *HASTE], 4, "no broker answers at 127.0.0.1:1"),
        (["topics", "--bus", "127.0.0.1:1", *HASTE], 4, "no broker answers at 127.0.0.1:1"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    arguments: list[str], code: int, says: str, tmp_path: Path
) -> None:
    done = flowgauge(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert says in one_line(done)


def test_unknown_settings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "flowgauge.toml").write_text("no_such_key = 1\n", encoding="utf-8")
    done = flowgauge("check", cwd=tmp_path)
    assert done.returncode == 2
    assert one_line(done).startswith("flowgauge.toml: unknown key no_such_key; known here: bus, ")
    assert "FLOWGAUGE_NO_SUCH" in one_line(flowgauge("check", FLOWGAUGE_NO_SUCH="1"))


def test_debug_adds_the_traceback() -> None:
    done = flowgauge("flows", "absent.pcap", FLOWGAUGE_DEBUG="1")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("flowgauge: error: ")


def test_check_prints_settings_that_check_reads(tmp_path: Path) -> None:
    first = flowgauge("check", "--set", "bus.partitions=3")
    (tmp_path / "s.toml").write_text(first.stdout, encoding="utf-8")
    second = flowgauge("check", "--config", str(tmp_path / "s.toml"), "--json")
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(second.stdout)["settings"]["bus"]["partitions"] == 3


def test_check_warns_of_rows_deeper_than_packets_are_sent() -> None:
    done = flowgauge("check", "--set", "packets.first_packets=7")
    assert done.returncode == 0 and "first_packets = 7" in done.stdout
    assert done.stderr == (
        "flowgauge: warning: representation early makes rows at packet 8, and packets.first_packets = 7 leaves out "
        "packets before it\n"
    )
    assert flowgauge("check", "--set", "packets.first_packets=8").stderr == ""


def test_flows_of_the_first_packets_tells_how_many_were_left_out(demo_capture: Path) -> None:
    found = {}
    for first in ("0", "10"):
        done = flowgauge("flows", str(demo_capture), "--json", "--set", f"packets.first_packets={first}")
        found[first] = json.loads(done.stdout)
    assert found["10"]["flows"] == found["0"]["flows"] > 1000
    packets = found["10"]["packets"]
    assert packets["left_out"] + found["10"]["counters"]["packets"] == packets["accepted"]
    assert packets["left_out"] > packets["accepted"] // 2 and found["0"]["packets"]["left_out"] == 0


def test_flows_of_a_capture_without_packets(tmp_path: Path) -> None:
    (tmp_path / "none.pcap").write_bytes(PCAP_HEAD)
    done = flowgauge("flows", "none.pcap", "-o", "o.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["packets"] == {"read": 0, "accepted": 0, "skipped": {}, "left_out": 0}
    assert found["flows"] == 0
    assert (tmp_path / "o.jsonl").read_bytes() == b""


def test_flows_of_a_directory_and_of_text(tmp_path: Path) -> None:
    assert flowgauge("flows", str(tmp_path)).returncode == 3
    (tmp_path / "text.pcap").write_text("hello\n" * 40, encoding="utf-8")
    assert "text.pcap" in one_line(flowgauge("flows", "text.pcap", cwd=tmp_path))


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m flowgauge check | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("# Effective settings")
    assert done.stderr == ""


def test_ctrl_c_ends_a_replay_in_order(tmp_path: Path) -> None:
    (tmp_path / "none.pcap").write_bytes(PCAP_HEAD)
    process = subprocess.Popen(
        [sys.executable, "-m", "flowgauge", "replay", "none.pcap", "--bus", "127.0.0.1:1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # It says that it waits for the broker: from here on the signal is its own to handle.
    line = process.stderr.readline()
    assert "trying for 20 s" in line
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert time.monotonic() - began < 30
