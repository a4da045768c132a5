"""Packet prediction messages written at once are those of the codec, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.packet_predictions import PacketFlows, PacketRows, PacketSource, encode_packet_predictions

LONG = st.integers(-(2**63), 2**63 - 1)
NATURAL = st.integers(0, 2**62)
INT = st.integers(0, 2**31 - 1)
HEX = st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}")
TEXT = st.text(max_size=80)
TIMES = ("probe_time_ns", "bus_to_model_ns", "queue_ns", "model_ns")
PLACES = ("source_port", "destination_port", "protocol", "start_ns")
SHARED = st.fixed_dictionaries(
    {
        **dict.fromkeys(("probe", "model", "model_version"), TEXT),
        "replayed": st.booleans(),
        **dict.fromkeys(TIMES, NATURAL),
    }
)
FLOW = st.fixed_dictionaries(
    {
        "flow_id": HEX,
        "source_address": TEXT,
        "destination_address": TEXT,
        **dict.fromkeys(PLACES[:3], INT),
        "start_ns": LONG,
    }
)
SHARE = st.floats(0, 1, width=32)


@given(SHARED, st.lists(FLOW, min_size=1, max_size=3), st.lists(TEXT, min_size=1, max_size=4), st.data())
def test_packets_are_the_bytes_of_the_codec(
    shared: dict[str, Any], flows: list[dict[str, Any]], classes: list[str], data: st.DataObject
) -> None:
    classes = list(dict.fromkeys(classes))
    row = st.fixed_dictionaries(
        {
            "prediction_id": HEX,
            "packet_number": INT,
            "reversed": st.booleans(),
            "event_time_ns": LONG,
            "octets": INT,
            "confidence": st.floats(allow_nan=False),
        }
    )
    count = data.draw(st.integers(0, 4))
    rows: list[dict[str, Any]] = [data.draw(row) for _ in range(count)]
    of = [data.draw(st.integers(0, len(flows) - 1)) for _ in rows]
    said = [data.draw(st.integers(0, len(classes) - 1)) for _ in rows]
    shares: list[list[float]] | None = (
        [[data.draw(SHARE) for _ in classes] for _ in rows] if data.draw(st.booleans()) else None
    )
    a, b, c, d = (shared[name] for name in TIMES)
    written = encode_packet_predictions(
        PacketSource(
            shared["probe"],
            shared["model"],
            shared["model_version"],
            shared["replayed"],
            (a, b, c, d),
            classes,
        ),
        PacketFlows(
            [flow["flow_id"] for flow in flows],
            [(flow["source_address"], flow["destination_address"]) for flow in flows],
            np.array([[flow[name] for name in PLACES] for flow in flows], np.int64),
        ),
        PacketRows(
            [r["prediction_id"] for r in rows],
            of,
            np.array([r["packet_number"] for r in rows], np.int64),
            [r["reversed"] for r in rows],
            np.array([(r["event_time_ns"], r["octets"]) for r in rows], np.int64).reshape(-1, 2),
            list(zip(said, [r["confidence"] for r in rows], strict=True)),
            shares,
        ),
    )
    wanted = [
        {
            "schema_version": 1,
            **shared,
            **flows[flow],
            **r,
            "label": classes[label],
            "probabilities": dict(zip(classes, share, strict=bool(share))),
        }
        for r, flow, label, share in zip(rows, of, said, shares or [[]] * len(rows), strict=True)
    ]
    assert written == [encode("PacketPrediction", record) for record in wanted]
    for value, record in zip(written, wanted, strict=True):
        assert decode("PacketPrediction", value) == record
