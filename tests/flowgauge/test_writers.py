from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowgauge.largest import LargestFlows
from flowgauge.records import FIELDS, address_texts, short_floats
from flowgauge.writers import FORMATS, open_writer
from schemas.community_id import address_text, community_id
from schemas.errors import InputError, SettingsError
from tests.flowgauge.batches import NAMES, feature_batch

EXPECTED: dict[str, Any] = {
    "flow_id": "abc0000000000001",
    "community_id": community_id(bytes([10, 0, 0, 1]), bytes([10, 0, 0, 251]), 40001, 443, 6, 4),
    "probe": 'probe "ä"',
    "source_address": "10.0.0.1",
    "destination_address": "10.0.0.251",
    "source_port": 40001,
    "destination_port": 443,
    "protocol": 6,
    "start_ns": 1_700_000_000_000_000_002,
    "end_ns": 1_700_000_005_000_000_002,
    "interval_start_ns": 0,
    "duration_ns": 5_000_000_000,
    "depth": 7,
    "flow_end_reason": "idle timeout",
    "tcp_flags": 0,
    "packets_fwd": 4,
    "packets_rev": 3,
    "octets_fwd": 2000,
    "octets_rev": 2**40,
}


def write(path: Path, *batches: Any) -> int:
    with open_writer(path, NAMES) as writer:
        for batch in batches:
            writer.write(batch)
    return writer.rows


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    assert write(path, feature_batch(3), feature_batch(0), feature_batch(2)) == 5
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 5
    assert rows[1] == {**EXPECTED, "mean": 0.1, "odd name, %s": 0.1}
    assert list(rows[1]) == [*FIELDS, *NAMES]
    assert rows[0]["odd name, %s"] is None
    assert rows[0]["flow_end_reason"] == ""
    assert rows[2]["source_address"] == "2001:db8::2"


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    write(path, feature_batch(3))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {k: str(v) for k, v in EXPECTED.items()} | dict.fromkeys(NAMES, "0.1")
    assert rows[0]["odd name, %s"] == ""


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "o.parquet"
    write(path, *[feature_batch(40_000) for _ in range(3)])
    table = parquet.read_table(path)
    assert table.num_rows == 120_000
    assert {f.name: str(f.type) for f in table.schema} == {**FIELDS, **dict.fromkeys(NAMES, "float")}
    row = {name: table[name][1].as_py() for name in table.column_names}
    assert row == {**EXPECTED, **dict.fromkeys(NAMES, float(np.float32(0.1)))}
    assert np.isnan(table[NAMES[1]][0].as_py())


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_without_rows_is_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"o{ending}"
    assert write(path) == 0
    if ending == ".csv":
        assert path.read_text(encoding="utf-8") == ",".join([*FIELDS, "mean", '"odd name, %s"']) + "\n"
    elif ending == ".jsonl":
        assert path.read_bytes() == b""
    else:
        assert pytest.importorskip("pyarrow.parquet").read_table(path).num_rows == 0


@pytest.mark.parametrize("ending", FORMATS)
def test_a_failed_run_leaves_the_old_file_and_no_other(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"o{ending}"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(RuntimeError), open_writer(path, NAMES) as writer:
        writer.write(feature_batch())
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "before"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unwritable_outputs_are_told_before_any_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"place\.csv: cannot write: No such file or directory"):
        open_writer(tmp_path / "no" / "place.csv", NAMES)
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(InputError, match=r"dir\.csv: cannot write: is a directory"):
        open_writer(tmp_path / "dir.csv", NAMES)
    with pytest.raises(SettingsError, match=r"must end with one of \.parquet, \.csv, \.jsonl"):
        open_writer(tmp_path / "o.xlsx", NAMES)


def test_features_are_matched_by_name(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write(path, feature_batch(1, names=("mean",)))
    row = json.loads(path.read_text(encoding="utf-8"))
    assert (row["mean"], row["odd name, %s"]) == (None, None)
    with pytest.raises(SettingsError, match="no column for feature other"):
        write(path, feature_batch(1, names=("other",)))


@given(arrays(np.float32, 50, elements=st.floats(width=32)))
def test_short_floats_stand_for_the_very_same_float32(values: Any) -> None:
    np.testing.assert_array_equal(short_floats(values).astype(np.float32), values)


def test_short_floats_read_short() -> None:
    values = np.array([0.1, 1e-7, 123.456, 3.0, 16777217, -2.5e9, 0.0], dtype=np.float32)
    texts = [repr(v) for v in short_floats(values).tolist()]
    assert texts == ["0.1", "1e-07", "123.456", "3.0", "16777216.0", "-2500000000.0", "0.0"]


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.sampled_from([4, 6])), max_size=20))
def test_address_texts_equal_those_written_one_by_one(addresses: list[tuple[bytes, int]]) -> None:
    raw = np.frombuffer(b"".join(a for a, _ in addresses), dtype=np.uint8).reshape(-1, 16)
    texts = address_texts(raw, np.array([v for _, v in addresses], dtype=np.uint8))
    assert texts.tolist() == [address_text(a, v) for a, v in addresses]


def test_largest_flows_over_batches() -> None:
    largest = LargestFlows(4)
    for _ in range(3):
        largest.add(feature_batch(5))
    rows = largest.rows()
    assert [row["octets_fwd"] for row in rows] == [5000, 5000, 5000, 4000]
    assert largest.table(15).row_count == 4
