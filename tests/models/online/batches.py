"""Feature batches and labels for the tests of the online model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.community_id import address_bytes
from schemas.features import ROW_COLUMNS, FeatureBatch
from schemas.flow_key import format_flow_id

SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000 * SECOND_NS
NAMES = ("size", "gap_ns", "ttl")


def feature_batch(
    flows: Sequence[int],
    features: Any = None,
    *,
    representation: str = "early",
    depth: int = 1,
    at_s: float = 0.0,
    names: tuple[str, ...] = NAMES,
    probe: str = "gate",
    **more: Any,
) -> FeatureBatch:
    """Return a batch with one row a flow, at ``at_s`` seconds of event time; zeros without features."""
    rows = len(flows)
    columns = {c.name: np.zeros((rows, *c.dtype.shape), dtype=c.dtype.base) for c in ROW_COLUMNS}
    columns["flow_id"][:] = np.array(flows, dtype=np.uint64)
    for name, text in (("source_address", "192.0.2.1"), ("destination_address", "198.51.100.7")):
        columns[name][:] = np.frombuffer(address_bytes(text)[0], dtype=np.uint8)
    columns["source_port"][:], columns["destination_port"][:] = 40_000, 443
    columns["protocol"][:], columns["ip_version"][:] = 6, 4
    columns["start_ns"][:] = columns["interval_start_ns"][:] = START_NS
    columns["end_ns"][:] = START_NS + round(at_s * SECOND_NS)
    columns["depth"][:] = depth
    matrix = np.zeros((rows, len(names))) if features is None else features
    columns["features"] = np.array(matrix, dtype=np.float32).reshape(rows, len(names))
    return FeatureBatch(
        probe=probe,
        representation=representation,
        partition=0,
        feature_names=names,
        columns=columns,
        **{"probe_time_ns": 1000, "flows_received_time_ns": 1500, "flows_sent_time_ns": 1700, **more},
    )


def label(flow: int, name: str, *, probe: str = "gate", at_s: float = 0.0) -> dict[str, Any]:
    """Return a label record for a flow that began at ``at_s`` seconds of event time."""
    return {
        "schema_version": 1,
        "flow_id": format_flow_id(flow),
        "probe": probe,
        "label": name,
        "source": "test",
        "start_ns": START_NS + round(at_s * SECOND_NS),
        "published_time_ns": 0,
    }
