"""Time to live (hop limit) of the first packet each way that has one: tells operating systems and distances apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="ttl",
    level="network",
    doc="Time to live of the first packet each way with one above 0; 0 if none came.",
    state=lambda depth: [("fwd", "u1"), ("rev", "u1")],
    columns=lambda depth: [
        FeatureColumn("ttl_fwd", "hops", "time to live of the first packet from the source"),
        FeatureColumn("ttl_rev", "hops", "time to live of the first packet to the source"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.direction == 0:
        if state.fwd == 0:
            state.fwd = packet.ttl
    elif state.rev == 0:
        state.rev = packet.ttl


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = state.fwd
    out[at + 1] = state.rev
