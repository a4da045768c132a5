"""``flowgauge record`` on the embedded broker: as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from flowgauge.cli import invoke
from infra.broker.embedded import EmbeddedBroker
from schemas.codec import decode, encode
from schemas.errors import BusError, InputError, SettingsError
from tests.flowgauge.recording.made import batch, files, flow_ids, ids_of
from tests.schemas.messages import RECORDS
from tests.waiting import wait_until

TOPICS = {"features.flow": 2, "predictions.flow": 2, "labels": 2, "telemetry.cost": 1, "dead-letters": 1}


@pytest.fixture
def bus(embedded: EmbeddedBroker) -> str:
    for name, partitions in TOPICS.items():
        embedded.create_topic(name, partitions)
    return embedded.bootstrap


def produce(bus: str, topic: str, values: list[bytes], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": bus})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(20) == 0


def record(bus: str, out: Path, *more: str) -> int | None:
    quiet = ("--set", "record.telemetry_interval_s=0")
    return invoke(["record", "-o", str(out), "--bus", bus, "--json", *quiet, *more])


@pytest.fixture
def features(bus: str) -> str:
    for partition in (0, 1):
        values = [batch(10 * partition + number).encode() for number in range(4)]
        produce(bus, "features.flow", values, partition)
    return bus


def test_topics_become_files_and_a_second_run_takes_what_came_since(
    features: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(features, "predictions.flow", [encode("Prediction", RECORDS["Prediction"])] * 3)
    produce(features, "labels", [encode("Label", RECORDS["Label"])])
    assert record(features, tmp_path, "--no-follow") == 0
    counters = json.loads(capsys.readouterr().out)["counters"]
    assert (counters["rows_in"], counters["rows_written"], counters["messages"]) == (28, 28, 12)
    assert counters["files"] == len(files(tmp_path)) == 4
    assert counters["octets_written"] == sum((tmp_path / name).stat().st_size for name in files(tmp_path))
    assert record(features, tmp_path, "--no-follow") == 0
    assert json.loads(capsys.readouterr().out)["counters"]["rows_in"] == 0
    produce(features, "features.flow", [batch(4).encode()])
    assert record(features, tmp_path, "--no-follow", "--topics", "features.flow,labels") == 0
    (only,) = {name.split("/")[0] for name in files(tmp_path)} - {"topic=predictions.flow", "topic=labels"}
    found = flow_ids(tmp_path / only)
    assert found == ids_of([0, 1, 2, 3, 4, 10, 11, 12, 13])


def test_from_the_end_only_what_comes_later_is_taken(bus: str, tmp_path: Path) -> None:
    produce(bus, "features.flow", [batch(0).encode()])
    assert record(bus, tmp_path, "--no-follow", "--from", "end") == 0
    produce(bus, "features.flow", [batch(1).encode()])
    assert record(bus, tmp_path, "--no-follow", "--from", "end") == 0
    assert flow_ids(tmp_path) == ids_of([1])


def test_what_cannot_be_used_is_set_aside_and_counted(
    features: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(features, "features.flow", [b"\xc3\x01poison...", batch(9).encode()])
    assert record(features, tmp_path / "rows", "--no-follow", "--topics", "features.flow") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["counters"]["messages_set_aside"] == 1
    assert "features.flow [0] offset 4 cannot be used and is set aside" in told.err
    assert flow_ids(tmp_path / "rows") == ids_of([0, 1, 2, 3, 9, 10, 11, 12, 13])
    assert invoke(["tail", "dead-letters", "--no-follow", "--json", "--bus", features]) in (None, 0)
    (letter,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (letter["topic"], letter["stage"], letter["reason"][:24]) == (
        "features.flow", "record", "written with an unknown ",
    )  # fmt: skip


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_stopping_it_writes_what_is_in_memory_and_tells_its_costs(
    features: str, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowgauge", "record", "-o", str(tmp_path), "--bus", features, "--json",
         "--topics", "features.*,telemetry.cost"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        note = tmp_path / "_recording" / "telemetry.cost-0000.json"
        wait_until(note.exists, 60)
        wait_until(lambda: sum(r["items_in"] for r in _telemetry(features)) >= 24 + 1, 30)
        assert files(tmp_path) == []
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (code, b"")
    assert json.loads(out)["counters"]["rows_written"] >= 24 + 1
    parts = [name for name in files(tmp_path) if "features.flow" in name]
    assert sum(pq.read_table(tmp_path / name).num_rows for name in parts) == 24
    told = [name for name in files(tmp_path) if "telemetry.cost" in name]
    rows = [row for name in told for row in pq.read_table(tmp_path / name).to_pylist()]
    assert {row["stage"] for row in rows} == {"record"}
    assert all(row["lag_records"] is not None for row in rows)
    last = _telemetry(features)[-1]
    assert (last["stage"], last["lag_records"]) == ("record", None)  # a last word: it has not fallen silent


def _telemetry(bus: str) -> list[dict[str, Any]]:
    """Return the records on telemetry.cost, one at least."""
    consumer = Consumer({"bootstrap.servers": bus, "group.id": "unused"})
    try:
        where = TopicPartition("telemetry.cost", 0, 0)
        _, end = consumer.get_watermark_offsets(where, timeout=10)
        consumer.assign([where])
        found = consumer.consume(end, timeout=20) if end else []
        return [decode("CostTelemetry", message.value() or b"") for message in found]
    finally:
        consumer.close()


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        ("packets", "record: packets cannot be recorded; these can: features.early, "),
        ("dead-letters", "record: dead-letters cannot be recorded; "),
        ("nosuch.*", r"record: nosuch\.\* is no topic of this project; these can: "),
    ],
)
def test_topics_that_cannot_be_recorded_are_named(
    bus: str, tmp_path: Path, topics: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        record(bus, tmp_path, "--topics", topics)


def test_a_topic_that_is_not_there_is_named(bus: str, tmp_path: Path) -> None:
    with pytest.raises(BusError, match=r"no topic features\.early"):
        record(bus, tmp_path, "--topics", "features.early,labels", "--no-follow")


def test_a_recording_of_another_bus_is_not_mixed_in(features: str, tmp_path: Path) -> None:
    assert record(features, tmp_path, "--no-follow") == 0
    with EmbeddedBroker() as other:
        for name, partitions in TOPICS.items():
            other.create_topic(name, partitions)
        with pytest.raises(
            BusError, match=r"recorded from another bus|was made anew; record into another folder"
        ):
            record(other.bootstrap, tmp_path, "--no-follow")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    target = tmp_path / "tiny"
    target.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(target)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("a full disk needs root, to mount a small one")
    yield target
    subprocess.run(["umount", str(target)], check=True)


@pytest.mark.root
def test_a_full_disk_is_one_line_and_what_did_not_fit_comes_at_the_next_start(
    bus: str, tiny_disk: Path
) -> None:
    import numpy as np

    rng = np.random.default_rng(1)

    def fill(numbers: range) -> None:
        for number in numbers:
            noise: dict[str, Any] = {
                name: rng.integers(0, 2**60, 200) for name in ("start_ns", "octets_fwd", "octets_rev")
            }
            produce(bus, "features.flow", [batch(number, rows=200, **noise).encode()])

    options = ("--no-follow", "--topics", "features.flow")
    fill(range(10))
    assert record(bus, tiny_disk, *options) == 0
    fill(range(10, 50))
    with pytest.raises(InputError) as told:
        record(bus, tiny_disk, *options)
    assert str(told.value).startswith(f"{tiny_disk}: cannot write: No space left on device; ")
    assert str(told.value).endswith("rows are not written, and a restart goes on with them")
    before = files(tiny_disk)
    assert before and not list(tiny_disk.rglob("*.part"))
    assert flow_ids(tiny_disk) == ids_of(range(10), 200)
    subprocess.run(["mount", "-o", "remount,size=16m", str(tiny_disk)], check=True)
    assert record(bus, tiny_disk, *options) == 0
    assert set(before) < set(files(tiny_disk))
    assert flow_ids(tiny_disk) == ids_of(range(50), 200)
