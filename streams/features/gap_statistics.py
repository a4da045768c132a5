"""Statistics of inter-arrival times over both directions: mean, standard deviation, maximum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="gap_statistics",
    level="network",
    doc="How the packets are spaced in time (both directions; a window counts the gap that leads into it).",
    # Welford's running mean and sum of squared deviations stay good in float32 where a sum of squares would
    # not. (B. P. Welford, Technometrics 4(3), 1962)
    state=lambda depth: [("count", "u4"), ("mean", "f4"), ("m2", "f4"), ("most", "f4")],
    columns=lambda depth: [
        FeatureColumn("gap_mean_us", "us", "mean time between packets, 0 without a second packet"),
        FeatureColumn("gap_std_us", "us", "population standard deviation of it"),
        FeatureColumn("gap_max_us", "us", "longest time between packets"),
    ],
)


@compiled(error_model="numpy")
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.depth == 1:
        return
    gap = np.float32(packet.gap_ns * 1e-3)
    state.count += 1
    delta = gap - state.mean
    state.mean += np.float32(delta / np.float32(state.count))
    state.m2 += np.float32(delta * (gap - state.mean))
    if gap > state.most:
        state.most = gap


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = state.mean
    out[at + 1] = np.sqrt(state.m2 / state.count) if state.count > 0 and state.m2 > 0 else 0.0
    out[at + 2] = state.most
