"""The identity part of a row as the kernels emit it, and the columns made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.features import ROW_COLUMNS

# Addresses as two little-endian words each, which the kernels copy in two moves.
IDENTITY = np.dtype(
    [(c.name, ("<u8", (2,))) if c.name.endswith("_address") else (c.name, c.dtype.str) for c in ROW_COLUMNS]
)

IDENTITY_WITH_SERVICE = np.dtype(
    [*IDENTITY.descr, ("service", "<u2"), ("service_found_by", "|u1"), ("server_name", "<u4")]
)
"""Where services are named: their numbers and the names' too (see ``streams.services.named``)."""


def columns_from(identity: NDArray[Any], features: NDArray[np.float32]) -> dict[str, Array]:
    """Return a feature batch's columns, copied out of the kernels' buffers.

    Args:
        identity: (rows,) records of IDENTITY or IDENTITY_WITH_SERVICE.
        features: (rows, names) float32.
    """
    # Copies, also where one row makes the view contiguous.
    columns: dict[str, Array] = {name: identity[name].copy() for name in identity.dtype.names or ()}
    for name in ("source_address", "destination_address"):
        columns[name] = columns[name].view(np.uint8)
    columns["features"] = features.copy()
    return columns
