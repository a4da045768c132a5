"""Statistics of packet lengths over both directions: mean, standard deviation, minimum, maximum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="size_statistics",
    level="network",
    doc="How long the packets are (IP octets, both directions).",
    # A float64 sum of squares is exact up to 2^53, some 2 million full-size packets, and good to 1e-16 beyond.
    # The minimum is kept as its distance from 65,535, so that a state of zeros is that of no packets.
    state=lambda depth: [("squares", "f8"), ("below", "u2"), ("most", "u2")],
    columns=lambda depth: [
        FeatureColumn("octets_mean", "octets", "mean packet length"),
        FeatureColumn("octets_std", "octets", "population standard deviation of the packet length"),
        FeatureColumn("octets_min", "octets", "shortest packet, at most 65,535"),
        FeatureColumn("octets_max", "octets", "longest packet; 65,535 stands for all beyond"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    octets = min(packet.octets, 65535)
    if 65535 - octets > state.below:
        state.below = 65535 - octets
    if octets > state.most:
        state.most = octets
    state.squares += float(packet.octets) * float(packet.octets)


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    packets = max(1.0, float(totals.packets_fwd + totals.packets_rev))
    mean = float(totals.octets_fwd + totals.octets_rev) / packets
    variance = state.squares / packets - mean * mean
    out[at] = mean
    out[at + 1] = np.sqrt(variance) if variance > 0 else 0.0
    out[at + 2] = 65535 - state.below
    out[at + 3] = state.most
