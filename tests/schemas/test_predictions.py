"""Prediction messages written at once are those of the codec, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.predictions import (
    PredictionRows,
    PredictionSource,
    avro_text,
    encode_predictions,
    varints,
)  # fmt: skip

LONG = st.integers(-(2**63), 2**63 - 1)
NATURAL = st.integers(0, 2**62)
INT = st.integers(0, 2**31 - 1)
HEX = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
TEXT = st.text(max_size=100)
TIMES = ("probe_time_ns", "bus_to_flows_ns", "flows_ns", "bus_to_model_ns", "model_ns")
PLACES = ("source_port", "destination_port", "protocol", "start_ns", "event_time_ns")
STAGES = ("depth", "flow_end_reason")
SHARED = st.fixed_dictionaries(
    {
        **dict.fromkeys(("probe", "representation", "model", "model_version"), TEXT),
        "replayed": st.booleans(),
        **dict.fromkeys(TIMES, NATURAL),
    }
)
VERDICT = st.tuples(st.booleans(), INT, st.floats(allow_nan=False))
ROW = st.fixed_dictionaries(
    {
        "prediction_id": HEX,
        "flow_id": HEX,
        "community_id": st.text("abcXYZ019+/=", min_size=28, max_size=28).map("1:{}".format),
        "source_address": TEXT,
        "destination_address": TEXT,
        **dict.fromkeys(("source_port", "destination_port", "protocol", *STAGES), INT),
        "start_ns": LONG,
        "event_time_ns": LONG,
        "label": st.none() | TEXT,
        "confidence": st.floats(allow_nan=False),
    }
)


@given(SHARED, st.lists(ROW, max_size=5), st.booleans(), st.booleans(), st.data())
def test_rows_are_the_bytes_of_the_codec(
    shared: dict[str, Any],
    rows: list[dict[str, Any]],
    own_times: bool,
    own_verdicts: bool,
    data: st.DataObject,
) -> None:
    a, b, c, d, e = (shared[name] for name in TIMES)
    verdicts = [data.draw(VERDICT) if own_verdicts else (True, 0, 0.0) for _ in rows]
    times = [[data.draw(LONG) if own_times else shared[name] for name in TIMES] for _ in rows]
    source = PredictionSource(
        shared["probe"], shared["representation"], shared["model"], shared["model_version"],
        shared["replayed"], None if own_times else (a, b, c, d, e),
    )  # fmt: skip
    columns = PredictionRows(
        [r["prediction_id"] for r in rows],
        [r["flow_id"] for r in rows],
        [r["community_id"] for r in rows],
        [avro_text(r["source_address"]) + avro_text(r["destination_address"]) for r in rows],
        np.array([[r[name] for name in PLACES] for r in rows], dtype=np.int64).reshape(-1, 5),
        np.array([[r[name] for name in STAGES] for r in rows], dtype=np.int64).reshape(-1, 2),
        [(r["label"], r["confidence"]) for r in rows],
        np.array(times, dtype=np.int64).reshape(-1, 5) if own_times else None,
        verdicts if own_verdicts else None,
    )
    written = encode_predictions(source, columns)
    wanted = [
        {
            "schema_version": 2,
            **shared,
            **row,
            **dict(zip(TIMES, own, strict=True)),
            **dict(zip(("final", "tier", "ood"), verdict, strict=True)),
        }
        for row, own, verdict in zip(rows, times, verdicts, strict=True)
    ]
    assert written == [encode("Prediction", record) for record in wanted]
    assert [decode("Prediction", value) for value in written] == wanted


def test_integers_take_one_to_ten_bytes() -> None:
    values = np.array([[0, -1], [63, 64], [-(2**63), 2**63 - 1]], dtype=np.int64)
    assert varints(values) == [
        b"\x00\x01",
        b"\x7e\x80\x01",
        b"\xff" * 9 + b"\x01" + b"\xfe" + b"\xff" * 8 + b"\x01",
    ]
