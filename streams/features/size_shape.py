"""Shape of the distribution of packet lengths: skewness and excess kurtosis, both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.moments import FIELDS, add_moment, kurtosis_of, skewness_of

FEATURE = Feature(
    name="size_shape",
    level="network",
    doc="Whether packet lengths lean to one side and how heavy the tails are.",
    formula="skewness = m3 / m2^1.5, kurtosis = m4 / m2^2 - 3, m_k = sum((x - mean)^k) / n; 0 where m2 is 0",
    reference="Terriberry's update of central moments; Pebay, Sandia report SAND2008-6212, 2008",
    state=lambda depth: list(FIELDS),
    columns=lambda depth: [
        FeatureColumn("octets_skew", "1", "skewness of the packet length"),
        FeatureColumn("octets_kurtosis", "1", "excess kurtosis of the packet length"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    add_moment(state, float(packet.octets))


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = skewness_of(state)
    out[at + 1] = kurtosis_of(state)
