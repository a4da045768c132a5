"""The probe's systemd unit: what systemd says of it, and that it gives one right alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "infra" / "systemd" / "flowgauge-probe.service"
MOST_EXPOSED = 2.5


def test_the_unit_gives_the_right_to_capture_and_no_other() -> None:
    text = UNIT.read_text(encoding="utf-8")
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert re.findall(rf"^{key}=(.*)$", text, re.MULTILINE) == ["CAP_NET_RAW"]
    assert not re.search(r"^User=(root|)$", text, re.MULTILINE)


def test_systemd_takes_it_and_finds_it_well_enclosed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "flowgauge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/flowgauge/bin/flowgauge", str(program)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    level = re.search(r"exposure level for \S+: ([0-9.]+)", told)
    assert level and float(level[1]) <= MOST_EXPOSED
