"""``PacketPrediction`` and ``Prediction`` records, made from the rows of a payload batch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.community_id import address_text
from schemas.packet_predictions import PacketFlows, PacketRows, PacketSource, encode_packet_predictions
from schemas.payloads import PayloadBatch
from schemas.predictions import PREDICTED, PredictionTexts, PredictionWriter

REPRESENTATION = "packet"
"""What a flow's vote was predicted on, in ``predictions.flow``."""

_address_text = lru_cache(maxsize=1 << 14)(address_text)
_PLACES = ("source_port", "destination_port", "protocol", "start_ns")
_ENDPOINTS = {
    "address": ("source_address", "destination_address"),
    "port": ("source_port", "destination_port"),
}
_MOST = 2**31 - 1
"""Largest number of a packet that a record's field holds."""
_pack = struct.Struct("<QIq").pack


def prediction_id(model: str, flow_id: int, packet_number: int) -> str:
    """Return the id of what a model says about a packet of a flow, and about the flow at that packet.

    The same whenever the same model answers the same packet, whatever its version. It is formed like those of
    other predictions: of (flow, model, representation, depth, interval).
    """
    digest = _id_head(model).copy()
    digest.update(_pack(flow_id, packet_number, 0))
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _id_head(model: str) -> Any:
    return blake2b(f"{model}\0{REPRESENTATION}\0".encode(), digest_size=8)


@dataclass(frozen=True)
class Timing:
    """When a payload batch went through the agent, wall clock in ns since the epoch."""

    received_ns: int
    begun_ns: int
    """When the model began with it."""
    made_ns: int


@dataclass(frozen=True)
class Rows:
    """The packets of a payload batch with their answers."""

    batch: PayloadBatch
    model: tuple[str, str]
    """Name and version."""
    classes: Sequence[str]
    probabilities: NDArray[np.float32]
    """(packets, classes)"""
    timing: Timing

    @cached_property
    def flows(self) -> list[dict[str, Any]]:
        """What the records of a flow share, for each row of the flow directory."""
        columns = self.batch.columns
        is_turned = columns["first_direction"] == 1
        source, destination = turned(columns["address_a"], columns["address_b"], is_turned)
        source_port, destination_port = turned(columns["port_a"], columns["port_b"], is_turned)
        return [
            {
                "flow_id": f"{flow_id:016x}",
                "probe": self.batch.probe,
                "source_address": _address_text(source[i].tobytes(), version),
                "destination_address": _address_text(destination[i].tobytes(), version),
                "source_port": int(source_port[i]),
                "destination_port": int(destination_port[i]),
                "protocol": protocol,
                "start_ns": start_ns,
                "model": self.model[0],
                "model_version": self.model[1],
                "replayed": self.batch.replayed,
                "probe_time_ns": self.batch.sent_time_ns,
            }
            for i, (flow_id, version, protocol, start_ns) in enumerate(
                zip(
                    columns["flow_id"].tolist(),
                    columns["ip_version"].tolist(),
                    columns["protocol"].tolist(),
                    columns["start_ns"].tolist(),
                    strict=True,
                )
            )
        ]

    def packet_messages(self, with_probabilities: bool) -> list[bytes]:
        """Return a ``PacketPrediction`` message for each packet. Clocks may differ: no stage time is negative."""
        batch, columns, timing, flows = self.batch, self.batch.columns, self.timing, self.flows
        numbers = np.minimum(columns["packet_number"], _MOST).astype(np.int64)
        best = self.probabilities.argmax(axis=1)
        confidence = np.take_along_axis(self.probabilities, best[:, None], axis=1)[:, 0]
        index = columns["flow_index"]
        flow_ids = columns["flow_id"][index].tolist()
        source = PacketSource(
            probe=batch.probe,
            model=self.model[0],
            model_version=self.model[1],
            replayed=batch.replayed,
            stage_times_ns=(
                batch.sent_time_ns,
                max(0, timing.received_ns - batch.sent_time_ns),
                max(0, timing.begun_ns - timing.received_ns),
                max(0, timing.made_ns - timing.begun_ns),
            ),
            classes=self.classes,
        )
        directory = PacketFlows(
            flow_ids=[flow["flow_id"] for flow in flows],
            addresses=[(flow["source_address"], flow["destination_address"]) for flow in flows],
            places=np.array([[flow[name] for name in _PLACES] for flow in flows], np.int64).reshape(-1, 4),
        )
        packets = PacketRows(
            prediction_ids=[
                prediction_id(self.model[0], flow_id, number)
                for flow_id, number in zip(flow_ids, numbers.tolist(), strict=True)
            ],
            flows=index.tolist(),
            numbers=numbers,
            reversed=(columns["direction"] != columns["first_direction"][index]).tolist(),
            times=np.stack((columns["time_ns"], columns["octets"].astype(np.int64)), axis=1),
            answers=list(zip(best.tolist(), confidence.tolist(), strict=True)),
            probabilities=self.probabilities.tolist() if with_probabilities else None,
        )
        return encode_packet_predictions(source, directory, packets)

    def vote_messages(
        self,
        flows: NDArray[np.int64],
        last_rows: NDArray[np.int64],
        labels: NDArray[np.int64],
        confidences: NDArray[np.float64],
    ) -> tuple[list[bytes], list[str]]:
        """Return a ``Prediction`` message about each flow, and their keys.

        Args:
            flows: (flows,) rows of the flow directory.
            last_rows: (flows,) the packet up to which each vote is.
            labels: (flows,) class that the flow's packets give.
            confidences: (flows,) how sure they are of it.
        """
        batch, columns, timing = self.batch, self.batch.columns, self.timing
        numbers = np.minimum(columns["packet_number"][last_rows], _MOST)
        is_turned = columns["first_direction"][flows] == 1
        rows = np.zeros(len(flows), PREDICTED)
        for kind, (source, destination) in _ENDPOINTS.items():
            a, b = (columns[f"{kind}_{end}"][flows] for end in "ab")
            rows[source], rows[destination] = turned(a, b, is_turned)
        for name in ("flow_id", "protocol", "ip_version", "start_ns"):
            rows[name] = columns[name][flows]
        rows["end_ns"], rows["depth"] = columns["time_ns"][last_rows], numbers
        rows["confidence"], rows["tier"] = confidences, -1
        rows["probe_time_ns"], rows["received_ns"] = batch.sent_time_ns, timing.received_ns
        # A payload goes straight from the probe to the model.
        rows["bus_to_model_ns"] = max(0, timing.received_ns - batch.sent_time_ns)
        ids = [
            int(prediction_id(self.model[0], flow_id, number), 16)
            for flow_id, number in zip(rows["flow_id"].tolist(), numbers.tolist(), strict=True)
        ]
        writer = _writer(
            PredictionTexts(batch.probe, REPRESENTATION, *self.model, batch.replayed, tuple(self.classes))
        )
        return writer.encode(rows, np.array(ids, np.uint64), labels, True, timing.made_ns)


@lru_cache(maxsize=64)
def _writer(texts: PredictionTexts) -> PredictionWriter:
    return PredictionWriter(texts)


def turned(a: Array, b: Array, is_turned: Array) -> tuple[Array, Array]:
    """Return (source, destination) of endpoints a and b: where ``is_turned``, b is the source."""
    where = is_turned.reshape(-1, *[1] * (a.ndim - 1))
    return np.where(where, b, a), np.where(where, a, b)
