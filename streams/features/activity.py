"""Throughput, idle times and bursts: a silence of a second or more ends a burst."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

IDLE_NS = 1_000_000_000

FEATURE = Feature(
    name="activity",
    level="network",
    doc="How fast each way, how long silent, and how the traffic comes in bursts.",
    formula="a gap of at least 1 s is idle and begins a new burst; active time = duration - idle time",
    reference="Active and idle times as flow meters have them, with a threshold of 1 s",
    state=lambda depth: [
        ("idle_ns", "i8"), ("idle_most_ns", "i8"), ("burst_octets", "u8"), ("burst_most_octets", "u8"),
        ("burst_ns", "i8"), ("burst_most_ns", "i8"), ("bursts", "u4"), ("idles", "u4"),
    ],
    columns=lambda depth: [
        FeatureColumn("octets_per_s_fwd", "octets/s", "octets from the source / duration, 0 for a duration of 0"),
        FeatureColumn("octets_per_s_rev", "octets/s", "octets to the source / duration, 0 for a duration of 0"),
        FeatureColumn("active_octets_per_s", "octets/s", "octets / active time, 0 for an active time of 0"),
        FeatureColumn("idle_s", "s", "sum of the idle times"),
        FeatureColumn("idle_max_s", "s", "longest idle time"),
        FeatureColumn("idle_periods", "1", "number of idle times"),
        FeatureColumn("bursts", "1", "number of bursts"),
        FeatureColumn("burst_octets_max", "octets", "octets of the largest burst"),
        FeatureColumn("burst_max_s", "s", "duration of the longest burst"),
        FeatureColumn("burst_octets_mean", "octets", "octets / bursts"),
    ],
)  # fmt: skip


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    gap_ns = packet.gap_ns
    if gap_ns >= IDLE_NS:
        state.idle_ns = min(state.idle_ns + gap_ns, np.int64(1) << 62)
        state.idles += 1
        if gap_ns > state.idle_most_ns:
            state.idle_most_ns = gap_ns
    if gap_ns >= IDLE_NS or state.bursts == 0:
        state.bursts += 1
        state.burst_octets = 0
        state.burst_ns = 0
    else:
        state.burst_ns = min(state.burst_ns + gap_ns, np.int64(1) << 62)
    state.burst_octets += packet.octets
    if state.burst_octets > state.burst_most_octets:
        state.burst_most_octets = state.burst_octets
    if state.burst_ns > state.burst_most_ns:
        state.burst_most_ns = state.burst_ns


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    duration_s = totals.duration_ns * 1e-9
    active_s = max(0.0, duration_s - state.idle_ns * 1e-9)
    octets = float(totals.octets_fwd) + float(totals.octets_rev)
    out[at] = totals.octets_fwd / duration_s if duration_s > 0 else 0.0
    out[at + 1] = totals.octets_rev / duration_s if duration_s > 0 else 0.0
    out[at + 2] = octets / active_s if active_s > 0 else 0.0
    out[at + 3] = state.idle_ns * 1e-9
    out[at + 4] = state.idle_most_ns * 1e-9
    out[at + 5] = state.idles
    out[at + 6] = state.bursts
    out[at + 7] = state.burst_most_octets
    out[at + 8] = state.burst_most_ns * 1e-9
    out[at + 9] = octets / state.bursts if state.bursts > 0 else 0.0
