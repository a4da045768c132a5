"""Messages of every recordable schema become rows; what cannot be used is refused one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from flowgauge.recording.layout import Key
from flowgauge.recording.rows import FeatureShape, Message, shape_of
from schemas.codec import NAMES, encode
from tests.flowgauge.recording.made import DAY_NS, batch, messages, refused
from tests.schemas.messages import RECORDS

DAY = 19_675  # 2023-11-14


def test_what_carries_octets_is_not_recorded() -> None:
    able = {name for name in NAMES if shape_of(name) is not None}
    assert able >= {"FeatureBatch", "Prediction", "Label", "CostTelemetry"}
    assert not able & {"PacketBatch", "FlowState", "DeadLetter", "PayloadBatch"}


def test_feature_batches_become_columns() -> None:
    ((key, rows),) = FeatureShape().batches(5, messages([7, 8]), refused)
    assert key == Key("2023-11-14", "gate", "-", ("mean", "odd name, %s"))
    assert rows.num_rows == 6
    columns = rows.to_pydict()
    assert columns["flow_id"] == [f"{n * 1000 + i:016x}" for n in (7, 8) for i in range(3)]
    assert columns["source_address"] == ["10.0.0.0", "10.0.0.1", "2001:db8::2"] * 2
    assert columns["destination_address"][2] == "2001:db8::fc"
    assert columns["flow_end_reason"][:3] == ["", "idle timeout", "active timeout"]
    assert columns["representation"] == ["flow"] * 6
    assert columns["octets_rev"] == [2**40] * 6
    assert (columns["kafka_partition"], columns["kafka_offset"]) == ([5] * 6, [7] * 3 + [8] * 3)
    assert columns["odd name, %s"][:2] == [None, pytest.approx(0.1)]
    assert "probe" not in columns and "service" not in columns


def test_rows_are_split_by_day_probe_and_features() -> None:
    end_ns = np.array([DAY * DAY_NS, DAY * DAY_NS - 1, DAY * DAY_NS + 5])
    found = [
        Message(0, None, batch(0, end_ns=end_ns).encode()),
        Message(1, None, batch(1, probe="").encode()),
    ]
    other = batch(2)
    found.append(Message(2, None, type(other)(**{**vars(other), "feature_names": ("depth", "x")}).encode()))
    made = FeatureShape().batches(0, found, refused)
    assert {(k.date, k.probe, k.columns[0]): b["flow_id"].to_pylist() for k, b in made} == {
        ("2023-11-13", "gate", "mean"): [f"{1:016x}"],
        ("2023-11-14", "gate", "mean"): [f"{0:016x}", f"{2:016x}"],
        ("2023-11-14", "-", "mean"): [f"{1000 + i:016x}" for i in range(3)],
        ("2023-11-14", "gate", "depth"): [f"{2000 + i:016x}" for i in range(3)],
    }
    named = next(b for k, b in made if k.columns[0] == "depth")
    assert named["depth"].to_pylist() == [7] * 3
    assert named["feature_depth"].to_pylist() == pytest.approx([0.1] * 3)


def test_rows_are_split_by_service_and_keep_how_it_was_found() -> None:
    def named(number: int, texts: str, service: list[int], server: list[int]) -> Message:
        columns: dict[str, Any] = {
            "texts": np.frombuffer(texts.encode(), np.uint8), "service": np.array(service),
            "server_name": np.array(server), "service_found_by": np.array([2, 0, 1]),
        }  # fmt: skip
        return Message(number, None, batch(number, **columns).encode())

    found = [
        named(0, "\nvideo\nv.example", [1, 0, 1], [2, 0, 2]),
        *messages([1]),
        named(2, "\nweb\nvideo\nw.example", [2, 1, 1], [0, 3, 3]),
    ]
    made = FeatureShape().batches(0, found, refused)
    names = ("flow_id", "server_name", "service_found_by")
    got = {key.service: list(zip(*(rows[n].to_pylist() for n in names), strict=True)) for key, rows in made}
    assert got == {
        "video": [
            (f"{0:016x}", "v.example", "tls_sni"), (f"{2:016x}", "v.example", "dns"), (f"{2000:016x}", "", "tls_sni"),
        ],
        "unknown": [(f"{1:016x}", "", "")],
        "-": [(f"{1000 + i:016x}", "", "") for i in range(3)],
        "web": [(f"{2001:016x}", "w.example", ""), (f"{2002:016x}", "w.example", "dns")],
    }  # fmt: skip
    told: list[str] = []
    long = named(3, "\n" + "x" * 201, [1, 0, 0], [0, 0, 0])
    assert FeatureShape().batches(0, [long], lambda _, why: told.append(why)) == []
    assert told == ["a service of 201 characters: too long for the name of a folder"]


@pytest.mark.parametrize("name", ["Prediction", "Label", "CostTelemetry"])
def test_records_keep_every_field(name: str) -> None:
    shape = shape_of(name)
    assert shape is not None
    record = RECORDS[name]
    ((key, rows),) = shape.batches(3, [Message(9, None, encode(name, record))], refused)
    (row,) = rows.to_pylist()
    assert (row.pop("kafka_partition"), row.pop("kafka_offset")) == (3, 9)
    row = {k: dict(v) if isinstance(v, list) else v for k, v in row.items()}
    record = {k: v for k, v in record.items() if k != "probe"}
    assert {k: row[k] for k in record} == record
    assert (key.probe, key.service) == (RECORDS[name].get("probe", "-"), "-")


def test_what_cannot_be_used_is_refused_and_the_rest_is_kept() -> None:
    twice = batch(0)
    bad = {
        0: b"",
        1: b"\xc3\x01unknown schema...",
        2: encode("Label", RECORDS["Label"]),
        3: batch(3).encode()[:-5],
        4: batch(4, probe="ä" * 40).encode(),
        5: type(twice)(**{**vars(twice), "feature_names": ("x", "x")}).encode(),
    }
    found = [Message(offset, None, value) for offset, value in bad.items()] + messages([6])
    told: dict[int, str] = {}
    ((_, rows),) = FeatureShape().batches(0, found, lambda m, why: told.__setitem__(m.offset, why))
    assert rows["kafka_offset"].to_pylist() == [6] * 3
    assert sorted(told) == list(bad)
    assert "unknown schema" in told[1] and "found a Label" in told[2]
    assert told[4] == "a probe of 40 characters: too long for the name of a folder"
    assert told[5] == "two features of one name"


def test_any_time_has_a_date() -> None:
    end_ns = np.array([-(2**63), 2**63 - 1, 0])
    made = FeatureShape().batches(0, [Message(0, None, batch(0, end_ns=end_ns).encode())], refused)
    assert [key.date for key, _ in made] == ["1677-09-21", "1970-01-01", "2262-04-11"]
