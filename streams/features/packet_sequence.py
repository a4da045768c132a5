"""Lengths, directions and gaps of the first packets, in order (up to the representation's depth)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, StateFields, Totals


def _state(depth: int) -> StateFields:
    directions = "u1" if depth <= 8 else "u2" if depth <= 16 else "u8"
    return [
        ("octets", "u2", (depth,)),
        ("gap_us", "f4", (max(1, depth - 1),)),
        ("reverse", directions),
        ("seen", "u1"),
    ]


def _columns(depth: int) -> list[FeatureColumn]:
    numbers = range(1, depth + 1)
    return (
        [FeatureColumn(f"octets_{i}", "octets", f"length of packet {i}, 0 if not seen") for i in numbers]
        + [
            FeatureColumn(f"direction_{i}", "1", f"1: packet {i} from the source, -1: to it, 0: not seen")
            for i in numbers
        ]
        + [FeatureColumn(f"gap_us_{i}", "us", f"time from packet {i - 1} to packet {i}") for i in numbers[1:]]
    )


FEATURE = Feature(
    name="packet_sequence",
    level="network",
    doc="The first packets one by one: length, direction, time since the one before.",
    state=_state,
    columns=_columns,
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    at = state.seen
    if at >= len(state.octets):
        return
    state.octets[at] = min(packet.octets, 65535)
    if at > 0:
        state.gap_us[at - 1] = packet.gap_ns * 1e-3
    state.reverse |= packet.direction << at
    state.seen = at + 1


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    depth, seen = len(state.octets), state.seen
    for i in range(depth):
        out[at + i] = state.octets[i]
        direction = 1.0 - 2.0 * ((state.reverse >> i) & 1)
        out[at + depth + i] = direction if i < seen else 0.0
        if i > 0:
            out[at + 2 * depth + i - 1] = state.gap_us[i - 1]
