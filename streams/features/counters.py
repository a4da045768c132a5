"""Packets with payload and their octets, each way; every row has the counts of all packets and octets anyway."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

FEATURE = Feature(
    name="counters",
    level="network",
    doc="How many packets carry payload, and how much; beside the packets and octets that every row has.",
    formula="payload = IP octets - IP header - transport header",
    reference="Traffic Refinery's PacketCounters (Bronzino et al., POMACS 5(3), 2021)",
    state=lambda depth: [("packets", "u4", (2,)), ("octets", "u8", (2,))],
    columns=lambda depth: [
        FeatureColumn("payload_packets_fwd", "packets", "packets with payload from the source"),
        FeatureColumn("payload_packets_rev", "packets", "packets with payload to the source"),
        FeatureColumn("payload_octets_fwd", "octets", "transport payload from the source"),
        FeatureColumn("payload_octets_rev", "octets", "transport payload to the source"),
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.payload_octets > 0:
        state.packets[packet.direction] += 1
        state.octets[packet.direction] += packet.payload_octets


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for d in range(2):
        out[at + d] = state.packets[d]
        out[at + 2 + d] = state.octets[d]
