"""The first 400 octets of payload as a grey image of 20 by 20 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Totals
from streams.features import first_bytes
from streams.features.first_bytes import OCTETS, update_head

__all__ = ["FEATURE", "emit", "update_head"]

_SIDE = 20

FEATURE = Feature(
    name="first_bytes_image",
    level="application",
    doc="The octets of the first packets' payload as pixels from 0 (black, or no octet) to 1 (white), row by row.",
    formula="pixel at row r, column c = octet 20 r + c / 255",
    reference=first_bytes.FEATURE.reference,
    needs=first_bytes.FEATURE.needs,
    state=first_bytes.FEATURE.state,
    columns=lambda depth: [
        FeatureColumn(f"pixel_{i // _SIDE}_{i % _SIDE}", "1", f"row {i // _SIDE}, column {i % _SIDE}, 0 to 1")
        for i in range(OCTETS)
    ],
)


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(OCTETS):
        out[at + i] = state.octets[i] / np.float32(255)
