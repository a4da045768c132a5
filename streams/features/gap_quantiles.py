"""Quantiles of the time between packets, both directions, from a histogram of fixed size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.sketch import bin_of, quantile

BINS = 128
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)

FEATURE = Feature(
    name="gap_quantiles",
    level="network",
    doc="Quantiles of the time between packets, to within an eighth of the value.",
    formula="the middle of the first bin at which the share of the packets is reached; four bins to an octave; "
    "times below 1.25 us share the first bin, from 4,295 s on all fall into the last",
    reference="After DDSketch (Masson, Rim, Lee, VLDB 12(12), 2019)",
    state=lambda depth: [("counts", "u4", (BINS,))],
    columns=lambda depth: [
        FeatureColumn(
            f"gap_us_p{round(100 * share)}",
            "us",
            f"{share:.0%} of the times between packets are as long or shorter",
        )
        for share in SHARES
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.depth == 1:
        return
    state.counts[bin_of(packet.gap_ns * 1e-3, BINS)] += 1


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(len(SHARES)):
        out[at + i] = quantile(state.counts, SHARES[i])
