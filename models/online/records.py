"""Prediction ids and ``Prediction`` messages, made from the rows of a feature batch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from models.online.classifier import Prediction
from schemas.columns import Array
from schemas.community_id import address_text, community_ids
from schemas.features import FeatureBatch
from schemas.predictions import PredictionRows, PredictionSource, avro_text, encode_predictions

_PLACES = ("source_port", "destination_port", "protocol", "start_ns", "end_ns")
_STAGES = ("depth", "flow_end_reason")


@dataclass(frozen=True)
class RowIds:
    """What names each row of a batch: its prediction id, flow id and depth."""

    texts: list[str]
    flows: list[int]
    depths: list[int]


def prediction_ids(batch: FeatureBatch, model: str) -> RowIds:
    """Return the ids of a model's predictions on a batch: the same whenever the same rows come again."""
    columns = batch.columns
    flows, depths = columns["flow_id"].tolist(), columns["depth"].tolist()
    head = blake2b(f"{model}\0{batch.representation}\0".encode(), digest_size=8)
    texts = []
    for key in zip(flows, depths, columns["interval_start_ns"].tolist(), strict=True):
        digest = head.copy()
        digest.update(struct.pack("<QIq", *key))
        texts.append(digest.hexdigest())
    return RowIds(texts, flows, depths)


@dataclass(frozen=True)
class Predictions:
    """What a model says about the rows of a feature batch."""

    batch: FeatureBatch
    ids: RowIds
    answers: Sequence[Prediction]
    """(label, confidence) for each row."""
    model: str
    model_version: str
    received_time_ns: int
    """Wall clock when the batch was taken up."""
    made_time_ns: int
    """Wall clock when the answers were there."""

    def messages(self) -> list[bytes]:
        """Return a ``Prediction`` message for each row."""
        columns = self.batch.columns
        rows = PredictionRows(
            prediction_ids=self.ids.texts,
            flow_ids=self.keys(),
            community_ids=community_ids(columns),
            addresses=_address_pairs(columns),
            places=_integers(columns, _PLACES),
            stages=_integers(columns, _STAGES),
            answers=self.answers,
        )
        return encode_predictions(self._source(), rows)

    def keys(self) -> list[str]:
        """Return the key of each row's message: its flow id as text."""
        return [f"{flow:016x}" for flow in self.ids.flows]

    def _source(self) -> PredictionSource:
        # Clocks of other machines may be ahead: no stage time is negative.
        batch = self.batch
        times = (
            batch.probe_time_ns,
            max(0, batch.flows_received_time_ns - batch.probe_time_ns),
            max(0, batch.flows_sent_time_ns - batch.flows_received_time_ns),
            max(0, self.received_time_ns - batch.flows_sent_time_ns),
            max(0, self.made_time_ns - self.received_time_ns),
        )
        return PredictionSource(
            batch.probe, batch.representation, self.model, self.model_version, batch.replayed, times
        )


def _integers(columns: dict[str, Array], names: tuple[str, ...]) -> Array:
    return np.stack([columns[name].astype(np.int64) for name in names], axis=1)


def _address_pairs(columns: dict[str, Array]) -> list[bytes]:
    pairs = np.concatenate((columns["source_address"], columns["destination_address"]), axis=1).tobytes()
    return [
        _address_field(pairs[at : at + 16], version) + _address_field(pairs[at + 16 : at + 32], version)
        for at, version in zip(range(0, len(pairs), 32), columns["ip_version"].tolist(), strict=True)
    ]


@lru_cache(maxsize=1 << 14)
def _address_field(address: bytes, version: int) -> bytes:
    return avro_text(address_text(address, version))
