"""Each message is in exactly one file, wherever the process ends."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from flowgauge.recording.layout import Key, checked, file_name, folder_of
from flowgauge.recording.store import Store
from schemas.errors import CodecError, InputError
from tests.flowgauge.recording.made import (
    FACTS,
    TOPIC,
    batch,
    files,
    flow_ids,
    ids_of,
    messages,
    recorder,
    refused,
    table,
)


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours runs after it."""


def test_files_lie_by_topic_date_probe_and_service_and_tell_their_offsets(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        made = recorder(store)
        made.take(TOPIC, 0, messages([0, 1, 2]), refused)
        made.take(TOPIC, 0, messages([3], probe="a/b=ü"), refused)
        made.write_all()
        assert made.meter.items_in == made.meter.items_out == 12
    name = files(tmp_path)[1].rpartition("/")[2]
    assert name.startswith("features.flow-0000-000000000000000-000000000000003-")
    assert files(tmp_path) == [
        f"topic=features.flow/date=2023-11-14/probe=a%2Fb%3D%C3%BC/service=-/{name}",
        f"topic=features.flow/date=2023-11-14/probe=gate/service=-/{name}",
    ]
    about = json.loads(pq.read_schema(tmp_path / files(tmp_path)[1]).metadata[b"flowgauge"])
    assert about == {
        "topic": TOPIC, "partition": 0, "first_offset": 0, "next_offset": 4, "bus": "test",
        "date": "2023-11-14", "probe": "gate", "service": "-",
    }  # fmt: skip
    assert set(table(tmp_path)["probe"].to_pylist()) == {"gate", "a/b=ü"}


def test_a_restart_goes_on_where_the_files_end(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.note(TOPIC, 0) is None
        made = recorder(store, roll_rows=6)
        made.take(TOPIC, 0, messages([0]), refused)
        made.take(TOPIC, 0, messages([1]), refused)
        made.take(TOPIC, 0, messages([2]), refused)  # in memory only
    with Store(tmp_path) as store:
        note = store.note(TOPIC, 0)
        assert note is not None and note["next_offset"] == 2
        made = recorder(store, at=2)
        made.take(TOPIC, 0, messages([1, 2, 3]), refused)  # 1 comes again
        made.write_all()
        assert made.meter.totals().counters["messages_repeated"] == 1
    assert flow_ids(tmp_path) == ids_of([0, 1, 2, 3])


@pytest.mark.parametrize("error", [Killed, OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_wherever_it_ends_nothing_is_lost_doubled_or_half(
    tmp_path: Path, call: str, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends (or the disk is full) at the n-th sync, rename or new file, for every n."""
    probes = ("one", "two")
    for fatal in range(40):
        root = tmp_path / str(fatal)
        with Store(root) as store:
            made = recorder(store)
            made.take(TOPIC, 0, messages([0, 1]), refused)
            made.write_all()
            for probe, number in zip(probes, (2, 3), strict=True):
                made.take(TOPIC, 0, messages([number], probe=probe), refused)
            calls = 0

            def failing(*arguments: Any, original: Any, fatal: int = fatal, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > fatal:  # from then on nothing works any more
                    raise error
                return original(*arguments, **options)

            with monkeypatch.context() as patch:
                owner: Any = os if call == "fsync" else Path
                original = getattr(owner, call)
                patch.setattr(
                    owner, call, lambda *a, original=original, **o: failing(*a, original=original, **o)
                )
                if error is Killed:
                    patch.setattr(Path, "unlink", lambda *_, **__: None)
                try:
                    made.write_all()
                    ended = False
                except (Killed, InputError) as ending:
                    ended = True
                    if isinstance(ending, InputError):
                        assert str(ending) == f"{root}: cannot write: No space left on device"
        for name in files(root):
            pq.read_table(root / name)  # whatever is visible is whole
        with Store(root) as store:
            note = store.note(TOPIC, 0)
            assert note is not None
            again = recorder(store, at=note["next_offset"])
            for probe, number in zip(probes, (2, 3), strict=True):
                again.take(TOPIC, 0, messages([number], probe=probe), refused)
            again.write_all()
            assert not list((root / "_recording").glob("*.part"))
        assert flow_ids(root) == ids_of([0, 1, 2, 3])
        if not ended:
            assert fatal >= 3  # both files and the note, at least
            return
    raise AssertionError("a commit makes more calls than this test has")


def test_a_second_recorder_is_kept_out(tmp_path: Path) -> None:
    with (
        Store(tmp_path),
        pytest.raises(InputError, match=r"another process records into it"),
        Store(tmp_path),
    ):
        pass
    with Store(tmp_path):
        pass


def test_files_without_a_note_are_not_guessed_about(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        made = recorder(store)
        made.take(TOPIC, 0, messages([0]), refused)
        made.write_all()
    (tmp_path / "_recording" / "features.flow-0000.json").unlink()
    with (
        Store(tmp_path) as store,
        pytest.raises(InputError, match=r"parquet: recorded, but .*_recording does not"),
    ):
        store.note(TOPIC, 0)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 9}', '{"version": 1, "topic": "t"}'])
def test_a_broken_note_is_named(tmp_path: Path, text: str) -> None:
    with Store(tmp_path):
        (tmp_path / "_recording" / "t-0000.json").write_text(text)
    with pytest.raises(InputError, match=r"t-0000\.json: not a note of a recording"), Store(tmp_path):
        pass


def test_a_folder_that_cannot_be_one_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/x: cannot record there: Not a directory"),
        Store(tmp_path / "file" / "x"),
    ):
        pass


def test_names_depend_on_nothing_but_what_is_in_the_file() -> None:
    key = Key("2024-01-01", "p", "-", ("a", "b"))
    assert file_name("t", 3, 10, 20, key) == file_name("t", 3, 10, 20, key._replace(date="x", probe="q"))
    assert file_name("t", 3, 10, 20, key) != file_name("t", 3, 10, 20, key._replace(columns=("b", "a")))
    assert (
        file_name("labels", 3, 10, 20, Key("d", "p", "-"))
        == "labels-0003-000000000000010-000000000000019.parquet"
    )
    assert str(folder_of("t", Key("d", "..", "a b/ü"))) == "topic=t/date=d/probe=../service=a%20b%2F%C3%BC"
    with pytest.raises(CodecError, match="a service of 201 characters"):
        checked("x" * 201, "service")


def test_segments_are_due_by_rows_age_memory_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowgauge.recording.segment.MAX_FILES", 8)
    now = [0.0]
    with Store(tmp_path) as store:
        made = recorder(store, clock=lambda: now[0], roll_rows=9, roll_s=10)
        made.take(TOPIC, 0, messages([0, 1]), refused)
        made.write_due()
        assert files(tmp_path) == []
        made.take(TOPIC, 0, messages([2]), refused)
        assert len(files(tmp_path)) == 1
        made.take(TOPIC, 0, messages([3]), refused)
        now[0] = 9.9
        made.write_due()
        assert len(files(tmp_path)) == 1
        now[0] = 10.0
        made.write_due()
        assert len(files(tmp_path)) == 2
        small = recorder(store, at=4, roll_mb=1)
        small.take(TOPIC, 0, messages([4], rows=900), refused)
        small.take(TOPIC, 0, messages(range(5, 12), rows=900), refused)
        assert len(files(tmp_path)) == 3
        many = recorder(store, at=12)
        for number in range(12, 12 + 8):
            many.take(TOPIC, 0, messages([number], probe=f"probe{number}", rows=1), refused)
        assert len(files(tmp_path)) == 3 + 8


def test_memory_is_bounded_over_all_partitions(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        made = recorder(store, roll_mb=100, memory_mb=2)
        from flowgauge.recording.rows import FeatureShape

        made.add("features.early", 1, FeatureShape(), 0)
        for number in range(8):
            made.take(TOPIC, 0, messages([number], rows=2000), refused)
            made.take("features.early", 1, messages([number], rows=1000), refused)
            assert made.meter.state_bytes <= 2 << 20
        made.write_all()
        counted = made.meter.totals().counters
        assert counted["segments_early"] >= 2
        assert made.meter.items_in == made.meter.items_out == 8 * 3000
    assert flow_ids(tmp_path) == ids_of(range(8), 2000) + ids_of(range(8), 1000)


def test_features_chosen_differently_go_into_other_files_and_columns_join_by_name(tmp_path: Path) -> None:
    other = batch(1)
    swapped = type(other)(**{**vars(other), "feature_names": ("x", "mean")}).encode()
    from flowgauge.recording.rows import Message

    with Store(tmp_path) as store:
        made = recorder(store)
        made.take(TOPIC, 0, [*messages([0]), Message(1, None, swapped)], refused)
        made.write_all()
    assert len(files(tmp_path)) == 2
    import duckdb

    found = duckdb.execute(
        f"select x, mean from read_parquet('{tmp_path}/topic=*/**/*.parquet', union_by_name = true) order by flow_id"
    ).fetchall()
    assert found[0] == (None, pytest.approx(0.1)) and found[4] == (pytest.approx(0.1), pytest.approx(0.1))
    assert FACTS
