"""Prediction messages written at once are those of the codec, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.community_id import address_text, community_id
from schemas.predictions import PREDICTED, PredictionTexts, PredictionWriter

HALF = st.binary(min_size=3, max_size=3)
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
VERDICT = st.tuples(st.integers(0, 127), st.floats(allow_nan=False))
MADE_NS = 2**62
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


PLACE = st.tuples(
    st.sampled_from([4, 6]),
    st.binary(min_size=16, max_size=16)
    | st.sampled_from([bytes(16), bytes(15) + b"\1", b"\xfd" + bytes(15)]),
    st.binary(min_size=16, max_size=16) | st.builds(lambda a, b: bytes(4) + a + bytes(6) + b, HALF, HALF),
    st.sampled_from([1, 6, 17, 47, 58, 132]),
    st.sampled_from([0, 1, 8, 13, 128, 129, 135, 255, 256]) | st.integers(0, 65535),
    st.integers(0, 65535),
)


@given(SHARED, st.lists(st.tuples(ROW, PLACE, VERDICT), max_size=4), st.booleans())
def test_structured_rows_give_the_bytes_of_the_codec(
    shared: dict[str, Any], given_rows: list[tuple[dict[str, Any], Any, tuple[int, float]]], final: bool
) -> None:
    labels = list(dict.fromkeys([None, *(row["label"] for row, _, _ in given_rows)]))
    rows = np.zeros(len(given_rows), PREDICTED)
    wanted = []
    for i, (row, (version, source, destination, protocol, first, second), verdict) in enumerate(given_rows):
        a, b = (
            address.ljust(16, b"\0") if version == 6 else address[:4] + bytes(12)
            for address in (source, destination)
        )
        tier, ood = verdict
        told = {
            "source_port": first, "destination_port": second, "protocol": protocol, "start_ns": row["start_ns"],
            "depth": row["depth"], "flow_end_reason": row["flow_end_reason"] % 6,
            "confidence": row["confidence"], "ood": ood,
        }  # fmt: skip
        beside = {
            "flow_id": int(row["flow_id"], 16), "source_address": np.frombuffer(a, np.uint8),
            "destination_address": np.frombuffer(b, np.uint8), "ip_version": version,
            "end_ns": row["event_time_ns"], "tier": tier - 1, "received_ns": MADE_NS - shared["model_ns"],
        }  # fmt: skip
        for name, value in {**told, **beside, **{name: shared[name] for name in TIMES[:-1]}}.items():
            rows[name][i] = value
        texts = {
            "community_id": community_id(a, b, first, second, protocol, version),
            "source_address": address_text(a, version),
            "destination_address": address_text(b, version),
        }
        wanted.append({"schema_version": 2, **shared, **row, **told, "tier": tier, "final": final, **texts})
    names = PredictionTexts(
        shared["probe"],
        shared["representation"],
        shared["model"],
        shared["model_version"],
        shared["replayed"],
        tuple(labels),
    )
    ids = np.array([int(row["prediction_id"], 16) for row, _, _ in given_rows], np.uint64)
    places = np.array([labels.index(row["label"]) for row, _, _ in given_rows], np.int64)
    written, keys = PredictionWriter(names).encode(rows, ids, places, final, MADE_NS)
    assert keys == [record["flow_id"] for record in wanted]
    assert [decode("Prediction", value) for value in written] == wanted
    assert written == [encode("Prediction", record) for record in wanted]
