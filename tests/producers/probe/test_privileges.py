"""After privileges are dropped nothing is left, and nothing can be had again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, socket, sys
from producers.probe.privileges import capabilities, drop_privileges
print(drop_privileges(sys.argv[1]))
print(os.getresuid(), os.getresgid(), os.getgroups(), capabilities())
def capture():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
def be_root():
    os.setuid(0) if os.getuid() else 1 / 0
for what in (capture, be_root):
    try:
        what()
        print("allowed")
    except (PermissionError, ZeroDivisionError) as error:
        print("refused")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapBnd", "NoNewPrivs"))])
"""


def dropped(user: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, user],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.root
def test_root_becomes_the_user_without_any_capability() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    lines = dropped("nobody").stdout.splitlines()
    assert lines[0] == "privileges dropped: user nobody, no capabilities, no way to new ones"
    assert lines[1].startswith("(65534, 65534, 65534) ") and lines[1].endswith(" [] 0")
    assert lines[2:4] == ["refused", "refused"]
    assert lines[4] == "['0000000000000000', '1']"


def test_without_a_user_capabilities_go_all_the_same() -> None:
    lines = dropped("").stdout.splitlines()
    assert lines[0].endswith("no capabilities, no way to new ones")
    assert lines[1].endswith(" 0") and lines[2] == "refused"


@pytest.mark.root
def test_a_user_that_there_is_not_is_named() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    assert "probe.user = 'no-such-user': there is no such user" in dropped("no-such-user").stderr
