"""TCP's receive window over the flow: mean, minimum and maximum of the window field, each way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.rounding import rounded

FEATURE = Feature(
    name="tcp_receive_window",
    level="transport",
    doc="Window field of TCP packets without RST, each way, unscaled; 0 for other protocols.",
    formula="mean = sum / packets, kept as a running mean",
    reference="RFC 9293, section 3.1",
    # The minimum is kept as its distance from 65,535, so that a state of zeros is that of no packets.
    state=lambda depth: [
        ("mean", "f4", (2,)), ("packets", "u4", (2,)), ("below", "u2", (2,)), ("most", "u2", (2,)),
    ],
    columns=lambda depth: [
        FeatureColumn(f"receive_window_{what}_{way}", "octets", f"{words} of the window {which} the source")
        for way, which in (("fwd", "from"), ("rev", "to"))
        for what, words in (("mean", "mean"), ("min", "minimum"), ("max", "maximum"))
    ],
)  # fmt: skip

_TCP, _RST = 6, 4


@compiled(error_model="numpy")
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.protocol != _TCP or packet.tcp_flags & _RST:
        return
    d, window = packet.direction, packet.tcp_window
    state.packets[d] += 1
    state.mean[d] += np.float32((np.float32(window) - state.mean[d]) / np.float32(state.packets[d]))
    if 65535 - window > state.below[d]:
        state.below[d] = 65535 - window
    if window > state.most[d]:
        state.most[d] = window


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for d in range(2):
        out[at + 3 * d] = rounded(state.mean[d])
        out[at + 3 * d + 1] = 65535 - state.below[d] if state.packets[d] > 0 else 0
        out[at + 3 * d + 2] = state.most[d]
