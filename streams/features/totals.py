"""Packet and octet totals, duration, means and rates: from the counts that every flow has, so without state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Totals

FEATURE = Feature(
    name="totals",
    level="network",
    doc="How much went each way, for how long, and how fast.",
    state=lambda depth: [],
    columns=lambda depth: [
        FeatureColumn("duration_s", "s", "duration of the flow or window"),
        FeatureColumn("total_packets_fwd", "packets", "packets from source to destination"),
        FeatureColumn("total_packets_rev", "packets", "packets from destination to source"),
        FeatureColumn("total_octets_fwd", "octets", "IP octets from source to destination"),
        FeatureColumn("total_octets_rev", "octets", "IP octets from destination to source"),
        FeatureColumn("mean_octets_fwd", "octets", "octets / packets from source to destination, 0 without"),
        FeatureColumn("mean_octets_rev", "octets", "octets / packets from destination to source, 0 without"),
        FeatureColumn("packets_per_s", "1/s", "packets / duration, 0 for a duration of 0"),
        FeatureColumn("octets_per_s", "octets/s", "octets / duration, 0 for a duration of 0"),
    ],
)


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    fwd, rev = float(totals.packets_fwd), float(totals.packets_rev)
    octets_fwd, octets_rev = float(totals.octets_fwd), float(totals.octets_rev)
    duration_s = totals.duration_ns / 1e9
    out[at] = duration_s
    out[at + 1] = fwd
    out[at + 2] = rev
    out[at + 3] = octets_fwd
    out[at + 4] = octets_rev
    out[at + 5] = octets_fwd / fwd if fwd > 0 else 0.0
    out[at + 6] = octets_rev / rev if rev > 0 else 0.0
    out[at + 7] = (fwd + rev) / duration_s if duration_s > 0 else 0.0
    out[at + 8] = (octets_fwd + octets_rev) / duration_s if duration_s > 0 else 0.0
