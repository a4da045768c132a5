"""The first 400 octets of payload, both directions in the order seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.packets import Extra
from streams.feature import Feature, FeatureColumn, Packet, Totals

OCTETS = 400
_HEADERS_OCTETS = 120

FEATURE = Feature(
    name="first_bytes",
    level="application",
    doc="Octets of the transport payload of the first packets (up to the representation's depth); -1 where none came.",
    formula="the payloads of the first packets one behind the other, each as far as its head goes",
    reference="Traffic Refinery's ByteCopyCounters and PNGCopyCounters; Wang et al., ISI 2017",
    needs=lambda depth: Extra(head_packets=depth, head_octets=OCTETS + _HEADERS_OCTETS),
    state=lambda depth: [("filled", "u2"), ("octets", "u1", (OCTETS,))],
    columns=lambda depth: [
        FeatureColumn(f"first_byte_{i}", "1", f"octet {i} of the payload, 0 to 255, -1: none")
        for i in range(OCTETS)
    ],
)


@compiled
def update_head(state: Any, packet: Packet, heads: NDArray[np.uint8], start: int, stop: int) -> None:
    """Take in the head of a packet: ``heads[start:stop]``."""
    at = np.int64(state.filled)
    for i in range(start + packet.octets - packet.payload_octets, stop):
        if at >= len(state.octets):
            break
        state.octets[at] = heads[i]
        at += 1
    state.filled = at


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(OCTETS):
        out[at + i] = state.octets[i] if i < state.filled else -1
