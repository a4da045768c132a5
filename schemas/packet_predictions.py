"""``PacketPrediction`` messages of a payload batch at once: the codec's bytes, at a fraction of its price."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.codec import head_of
from schemas.predictions import avro_integers, avro_label, avro_text, varints

_ID = bytes((2 * 16,))
"""What Avro writes before a text of 16 characters."""
_ANSWER = struct.Struct("<d")
_PROBABILITY = struct.Struct("<f")
_TRUE_FALSE = (b"\x00", b"\x01")


@dataclass(frozen=True)
class PacketSource:
    """What the predictions of a payload batch share; the fields are those of the schema."""

    probe: str
    model: str
    model_version: str
    replayed: bool
    stage_times_ns: tuple[int, int, int, int]
    """``probe_time_ns``, ``bus_to_model_ns``, ``queue_ns``, ``model_ns``."""
    classes: Sequence[str]
    """Every class, in the order of ``probabilities``."""


@dataclass(frozen=True)
class PacketFlows:
    """The flows of the batch; everything has as many rows."""

    flow_ids: Sequence[str]
    """Of 16 characters."""
    addresses: Sequence[tuple[str, str]]
    """Source and destination."""
    places: NDArray[np.int64]
    """(flows, 4): source and destination port, protocol, ``start_ns``."""


@dataclass(frozen=True)
class PacketRows:
    """The packets of the batch; everything has as many rows."""

    prediction_ids: Sequence[str]
    """Of 16 characters."""
    flows: Sequence[int]
    """Which of the flows each packet is of."""
    numbers: NDArray[np.int64]
    """(packets,)"""
    reversed: Sequence[bool]
    times: NDArray[np.int64]
    """(packets, 2): ``event_time_ns``, ``octets``."""
    answers: Sequence[tuple[int, float]]
    """Class and confidence."""
    probabilities: Sequence[Sequence[float]] | None
    """Of each class; None: they are left out."""


def encode_packet_predictions(source: PacketSource, flows: PacketFlows, rows: PacketRows) -> list[bytes]:
    """Return the message of each packet."""
    head = head_of("PacketPrediction") + avro_integers((1,)) + _ID
    probe = avro_text(source.probe)
    of_flow = [
        _ID + flow_id.encode() + probe + avro_text(a) + avro_text(b) + place
        for flow_id, (a, b), place in zip(flows.flow_ids, flows.addresses, varints(flows.places), strict=True)
    ]
    labels = [avro_label(name) for name in source.classes]
    tail = avro_text(source.model) + avro_text(source.model_version) + _TRUE_FALSE[source.replayed]
    tail += avro_integers(source.stage_times_ns)
    shares = _shares(source.classes, rows)
    return [
        b"".join((
            head, prediction.encode(), of_flow[flow], number, _TRUE_FALSE[away], times, labels[answer],
            _ANSWER.pack(confidence), share, tail,
        ))
        for prediction, flow, number, away, times, (answer, confidence), share in zip(
            rows.prediction_ids, rows.flows, varints(rows.numbers[:, np.newaxis]), rows.reversed,
            varints(rows.times), rows.answers, shares, strict=True,
        )
    ]  # fmt: skip


def _shares(classes: Sequence[str], rows: PacketRows) -> list[bytes]:
    """Return the map of probabilities of each packet."""
    if rows.probabilities is None or not classes:
        return [b"\x00"] * len(rows.prediction_ids)
    count, names = avro_integers((len(classes),)), [avro_text(name) for name in classes]
    pack = _PROBABILITY.pack
    return [
        count + b"".join([name + pack(share) for name, share in zip(names, row, strict=True)]) + b"\x00"
        for row in rows.probabilities
    ]
