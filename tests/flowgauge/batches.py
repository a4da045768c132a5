"""Feature batches for tests, made by hand."""

from __future__ import annotations

import numpy as np

from schemas.columns import Array
from schemas.features import ROW_COLUMNS, FeatureBatch

NAMES = ("mean", "odd name, %s")


def feature_batch(
    rows: int = 3, names: tuple[str, ...] = NAMES, representation: str = "flow"
) -> FeatureBatch:
    """Return a batch whose row ``i`` is a flow of 10.0.0.i (every third row of 2001:db8::i)."""
    columns: dict[str, Array] = {
        c.name: np.zeros((rows, *c.dtype.shape), dtype=c.dtype.base) for c in ROW_COLUMNS
    }
    index = np.arange(rows)
    six = index % 3 == 2
    columns["ip_version"][:] = np.where(six, 6, 4)
    for name, last in (("source_address", index % 250), ("destination_address", 250 + index % 5)):
        columns[name][:, 0] = np.where(six, 0x20, 10)
        columns[name][six, 1:4] = (0x01, 0x0D, 0xB8)
        columns[name][index, np.where(six, 15, 3)] = last
    columns["flow_id"][:] = 0xABC0000000000000 + index.astype(np.uint64)
    columns["source_port"][:] = 40000 + index % 1000
    columns["destination_port"][:] = 443
    columns["protocol"][:] = 6
    columns["start_ns"][:] = 1_700_000_000_000_000_001 + index
    columns["end_ns"][:] = columns["start_ns"] + 5_000_000_000
    columns["depth"][:] = 7
    columns["flow_end_reason"][:] = index % 6
    columns["packets_fwd"][:] = 4
    columns["packets_rev"][:] = 3
    columns["octets_fwd"][:] = 1000 * (index + 1)
    columns["octets_rev"][:] = 2**40
    features = np.full((rows, len(names)), 0.1, dtype=np.float32)
    features[:1, -1] = np.nan
    return FeatureBatch('probe "ä"', representation, 0, names, {**columns, "features": features})
