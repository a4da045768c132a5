"""TCP window of the first packet each way that has one: the initial windows of both stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="tcp_window",
    level="transport",
    doc="TCP window field (unscaled) of the first packet each way with one above 0; 0 if none came or not TCP.",
    state=lambda depth: [("fwd", "u2"), ("rev", "u2")],
    columns=lambda depth: [
        FeatureColumn("tcp_window_fwd", "octets", "window of the first packet from the source that has one"),
        FeatureColumn("tcp_window_rev", "octets", "window of the first packet to the source that has one"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.direction == 0:
        if state.fwd == 0:
            state.fwd = packet.tcp_window
    elif state.rev == 0:
        state.rev = packet.tcp_window


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = state.fwd
    out[at + 1] = state.rev
