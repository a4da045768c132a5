"""Prediction ids and ``Prediction`` records, made from the rows of a feature batch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from models.online.classifier import Prediction
from schemas.columns import Array
from schemas.community_id import address_text, community_ids
from schemas.features import FeatureBatch

_address_text = lru_cache(maxsize=1 << 14)(address_text)


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


def prediction_records(
    batch: FeatureBatch,
    ids: RowIds,
    answers: Sequence[Prediction],
    model: tuple[str, str],
    received_time_ns: int,
    made_time_ns: int,
) -> list[dict[str, Any]]:
    """Return a ``Prediction`` record for each row.

    Args:
        batch: the rows.
        ids: of the rows.
        answers: (label, confidence) for each row.
        model: name and version.
        received_time_ns: wall clock when the batch was taken up.
        made_time_ns: wall clock now. Clocks of other machines may be ahead: no stage time is negative.
    """
    columns = batch.columns
    shared = {
        "schema_version": 1,
        "probe": batch.probe,
        "representation": batch.representation,
        "model": model[0],
        "model_version": model[1],
        "replayed": batch.replayed,
        "probe_time_ns": batch.probe_time_ns,
        "bus_to_flows_ns": max(0, batch.flows_received_time_ns - batch.probe_time_ns),
        "flows_ns": max(0, batch.flows_sent_time_ns - batch.flows_received_time_ns),
        "bus_to_model_ns": max(0, received_time_ns - batch.flows_sent_time_ns),
        "model_ns": max(0, made_time_ns - received_time_ns),
    }
    versions = columns["ip_version"].tolist()
    rows = zip(
        ids.texts,
        ids.flows,
        ids.depths,
        community_ids(columns),
        _addresses(columns["source_address"], versions),
        _addresses(columns["destination_address"], versions),
        columns["source_port"].tolist(),
        columns["destination_port"].tolist(),
        columns["protocol"].tolist(),
        columns["start_ns"].tolist(),
        columns["end_ns"].tolist(),
        columns["flow_end_reason"].tolist(),
        answers,
        strict=True,
    )
    return [
        {
            "prediction_id": prediction_id,
            "flow_id": f"{flow:016x}",
            "community_id": community,
            "source_address": source,
            "destination_address": destination,
            "source_port": source_port,
            "destination_port": destination_port,
            "protocol": protocol,
            "start_ns": start_ns,
            "event_time_ns": end_ns,
            "depth": depth,
            "flow_end_reason": reason,
            "label": label,
            "confidence": confidence,
            **shared,
        }
        for (
            prediction_id, flow, depth, community, source, destination, source_port, destination_port,
            protocol, start_ns, end_ns, reason, (label, confidence),
        ) in rows
    ]  # fmt: skip


def _addresses(column: Array, versions: list[int]) -> list[str]:
    raw = np.ascontiguousarray(column).tobytes()
    return [_address_text(raw[16 * i : 16 * i + 16], version) for i, version in enumerate(versions)]
