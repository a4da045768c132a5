"""Packet prediction messages written at once are those of the codec, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import decode, encode
from schemas.community_id import address_text
from schemas.packet_predictions import PACKET, PACKET_FLOW, PacketPredictionWriter, PacketTexts, StageTimes

LONG = st.integers(-(2**63), 2**63 - 1)
NATURAL = st.integers(0, 2**62)
INT = st.integers(0, 2**31 - 1)
NUMBER = st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=80)
SHARED = st.fixed_dictionaries(
    {
        **dict.fromkeys(("probe", "model", "model_version"), TEXT),
        "replayed": st.booleans(),
        **dict.fromkeys(StageTimes._fields, NATURAL),
    }
)
ADDRESS = st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), bytes(15) + b"\1", b"\xff" * 16])
FLOW = st.fixed_dictionaries(
    {
        "flow_id": NUMBER,
        "source_address": ADDRESS,
        "destination_address": ADDRESS,
        **dict.fromkeys(("source_port", "destination_port"), st.integers(0, 65535)),
        "protocol": st.integers(0, 255),
        "ip_version": st.sampled_from([4, 6]),
        "start_ns": LONG,
    }
)
SHARE = st.floats(width=32, allow_nan=False)


def filled(rows: list[dict[str, Any]], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    out = np.zeros(len(rows), dtype)
    for i, row in enumerate(rows):
        for name, value in row.items():
            out[name][i] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    return out


@given(
    SHARED,
    st.lists(FLOW, min_size=1, max_size=3),
    st.lists(TEXT, min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.data(),
)
def test_packets_are_the_bytes_of_the_codec(
    shared: dict[str, Any],
    flows: list[dict[str, Any]],
    classes: list[str],
    with_probabilities: bool,
    data: st.DataObject,
) -> None:
    packet = st.fixed_dictionaries(
        {
            "packet_number": INT,
            "reversed": st.booleans(),
            "event_time_ns": LONG,
            "octets": INT,
            "flow": st.integers(0, len(flows) - 1),
        }
    )
    packets = data.draw(st.lists(packet, max_size=4))
    ids = [data.draw(NUMBER) for _ in packets]
    labels = [data.draw(st.integers(0, len(classes) - 1)) for _ in packets]
    shares = [[data.draw(SHARE) for _ in classes] for _ in packets]
    probe, model, version = (shared[name] for name in ("probe", "model", "model_version"))
    texts = PacketTexts(probe, model, version, shared["replayed"], tuple(classes))
    written, keys = PacketPredictionWriter(texts).encode(
        filled(flows, PACKET_FLOW),
        filled(packets, PACKET),
        np.array(ids, np.uint64),
        np.array(labels, np.int64),
        np.array(shares, np.float32).reshape(-1, len(classes)),
        with_probabilities,
        StageTimes(*(shared[name] for name in StageTimes._fields)),
    )
    wanted = []
    for row, name, label, share in zip(packets, ids, labels, shares, strict=True):
        flow = dict(flows[row["flow"]])
        version = flow.pop("ip_version")
        wanted.append(
            {
                "schema_version": 1, **shared, **flow,
                **{field: row[field] for field in ("packet_number", "reversed", "event_time_ns", "octets")},
                "prediction_id": f"{name:016x}",
                "flow_id": f"{flow['flow_id']:016x}",
                "source_address": address_text(flow["source_address"], version),
                "destination_address": address_text(flow["destination_address"], version),
                "label": classes[label],
                "confidence": share[label],
                "probabilities": dict(zip(classes, share, strict=True)) if with_probabilities else {},
            }
        )  # fmt: skip
    assert written == [encode("PacketPrediction", record) for record in wanted]
    assert keys == [record["flow_id"] for record in wanted]
    for value, record in zip(written, wanted, strict=True):
        assert decode("PacketPrediction", value) == record


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (2, 1)])
def test_probabilities_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    writer = PacketPredictionWriter(PacketTexts("p", "m", "1", False, ("dns", "web")))
    with pytest.raises(ValueError, match=f"probabilities .{shape[0]}, {shape[1]}., 2 packets, 2 classes"):
        writer.encode(
            np.zeros(1, PACKET_FLOW),
            np.zeros(2, PACKET),
            np.zeros(2, np.uint64),
            np.zeros(2, np.int64),
            np.zeros(shape, np.float32),
            False,
            StageTimes(0, 0, 0, 0),
        )
