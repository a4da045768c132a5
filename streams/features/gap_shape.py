"""Shape of the distribution of inter-arrival times: minimum, skewness and excess kurtosis, both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.moments import FIELDS, add_moment, kurtosis_of, skewness_of

FEATURE = Feature(
    name="gap_shape",
    level="network",
    doc="Shortest time between packets, whether times lean to one side, and how heavy the tails are.",
    formula="skewness = m3 / m2^1.5, kurtosis = m4 / m2^2 - 3, m_k = sum((x - mean)^k) / n; 0 where m2 is 0",
    reference="Terriberry's update of central moments; Pebay, Sandia report SAND2008-6212, 2008",
    # In front: what began like the state of size_shape would pass for one in Numba.
    state=lambda depth: [("least", "i8"), *FIELDS],
    columns=lambda depth: [
        FeatureColumn("gap_min_us", "us", "shortest time between packets, 0 without a second packet"),
        FeatureColumn("gap_skew", "1", "skewness of the time between packets"),
        FeatureColumn("gap_kurtosis", "1", "excess kurtosis of it"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.depth == 1:
        return
    if state.count == 0 or packet.gap_ns < state.least:
        state.least = packet.gap_ns
    add_moment(state, packet.gap_ns * 1e-3)


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = state.least * 1e-3
    out[at + 1] = skewness_of(state)
    out[at + 2] = kurtosis_of(state)
