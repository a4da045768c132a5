"""TCP flags of the first packets, in order (up to the representation's depth)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="flag_sequence",
    level="transport",
    doc="TCP flags of the first packets, as the byte in the header; 0 for other protocols and packets not seen.",
    state=lambda depth: [("flags", "u1", (depth,))],
    columns=lambda depth: [
        FeatureColumn(f"tcp_flags_{i}", "1", f"TCP flags of packet {i}") for i in range(1, depth + 1)
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.depth <= len(state.flags):
        state.flags[packet.depth - 1] = packet.tcp_flags


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(len(state.flags)):
        out[at + i] = state.flags[i]
