"""The queries of docs/how-to/record.md and the example over a recording, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")

import duckdb

from flowgauge.recording.config import RecordSettings
from flowgauge.recording.rows import Message, shape_of
from flowgauge.recording.segment import Recorder
from flowgauge.recording.store import Store
from producers.telemetry import StageMeter
from schemas.codec import encode
from tests.flowgauge.recording.made import batch, refused
from tests.schemas.messages import RECORDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "record.md").read_text(encoding="utf-8")


def snippets(kind: str) -> list[str]:
    return re.findall(rf"^```\w+ {kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording: 6 flows, two of them named and labelled, and telemetry of two intervals."""
    root = tmp_path_factory.mktemp("recorded")
    about = [
        {"flow_id": f"{number:016x}", "label": label, "depth": depth}
        for number, label, depth in ((0, "dns", 1), (0, "web", 8), (1, "web", 8), (2, None, 1))
    ]
    made: dict[str, tuple[str, list[bytes]]] = {
        "features.flow": ("FeatureBatch", [batch(0).encode(), batch(1).encode()]),
        "predictions.flow": ("Prediction", [encode("Prediction", {**RECORDS["Prediction"], **a}) for a in about]),
        "labels": ("Label", [
            encode("Label", {**RECORDS["Label"], "flow_id": f"{number:016x}", "label": label})
            for number, label in ((0, "web"), (1, "dns"))
        ]),
        "telemetry.cost": ("CostTelemetry", [
            encode("CostTelemetry", {**RECORDS["CostTelemetry"], "stage": "flows", "cpu_ns": 300, "items_in": 3})
        ] * 2),
    }  # fmt: skip
    with Store(root / "recording") as store:
        recorder = Recorder(store, RecordSettings(), {"bus": ""}, StageMeter("record", "rows"))
        for topic, (schema, values) in made.items():
            shape = shape_of(schema)
            assert shape is not None
            recorder.add(topic, 0, shape, 0)
            recorder.take(topic, 0, [Message(i, None, value) for i, value in enumerate(values)], refused)
        recorder.write_all()
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_duckdb_queries_answer(here: Path) -> None:
    by_port, right, costs = (duckdb.execute(text).fetchall() for text in snippets("duckdb"))
    assert by_port == [(443, 6, 2 * (1000 + 2000 + 3000) + 6 * 2**40)]
    assert right == [("dns", 1, 0.0), ("web", 1, 1.0)] or right == [("web", 1, 1.0), ("dns", 1, 0.0)]
    assert costs[0][:2] == ("flows", 100.0)


def test_the_polars_query_answers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("polars")
    (code,) = snippets("polars")
    scope: dict[str, Any] = {}
    exec(compile(code, "record.md", "exec"), scope)
    assert scope["busiest"].rows() == [
        ("2001:db8::2", 2, 2 * (3000 + 2**40)), ("10.0.0.1", 2, 2 * (2000 + 2**40)),
        ("10.0.0.0", 2, 2 * (1000 + 2**40)),
    ]  # fmt: skip


@pytest.fixture
def example() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "examples" / "recorded_bytes.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})

    return run


def test_the_example_shows_octets_by_application(
    folder: Path, example: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = example(str(folder / "recording"))
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {
        cell[1]: (cell[0], int(cell[2]), int(cell[3]))
        for cell in cells
        if len(cell) == 4 and cell[2].isdigit()
    }
    # batch(0) holds flows 0, 1 and 2; flow 0 was first taken for dns, and later for web.
    assert rows["web"] == ("2023-11-14 22:13:20", 2, 1000 + 2000 + 2 * 2**40)
    assert rows["(unknown)"][1] == 4


def test_the_example_says_where_nothing_is_recorded(
    tmp_path: Path, example: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = example(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path}: nothing of features.flow is recorded there\n"
