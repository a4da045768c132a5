"""TCP retransmissions, segments out of order, and octets in flight, each way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.packets import Extra
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.rounding import rounded
from streams.serial import ahead

OUT_OF_ORDER_US = 3000
"""A segment that fills a hole this soon after the hole was seen was reordered; later, it was sent again."""

FEATURE = Feature(
    name="tcp_delivery",
    level="transport",
    doc="Segments sent again or out of order, and how much is on the way; 0 for other protocols.",
    formula="A segment [s, e) that begins before the highest e seen is out of order where it lies in the latest hole "
    "and comes within 3 ms of it, else a retransmission; keep-alives are neither. In flight = highest e - highest "
    "acknowledgment from the other side, at each segment with data. Numbers are compared modulo 2^32.",
    reference="RFC 9293; the 3 ms are those of Wireshark's TCP analysis",
    needs=lambda depth: Extra(tcp=True),
    kept=("next", "acked", "hole_start", "hole_end", "hole_us", "known"),
    state=lambda depth: [
        ("next", "u4", (2,)), ("acked", "u4", (2,)), ("hole_start", "u4", (2,)), ("hole_end", "u4", (2,)),
        ("hole_us", "u4", (2,)), ("known", "u1"), ("again", "u4", (2,)), ("disorder", "u4", (2,)),
        ("flight_mean", "f4", (2,)), ("flight_count", "u4", (2,)), ("flight_most", "u4", (2,)),
    ],
    columns=lambda depth: [
        FeatureColumn(f"{name}_{way}", unit, f"{words} {which} the source")
        for way, which in (("fwd", "from"), ("rev", "to"))
        for name, unit, words in (
            ("retransmissions", "packets", "segments sent again"),
            ("out_of_order", "packets", "segments out of order"),
            ("in_flight_mean", "octets", "mean of the octets in flight"),
            ("in_flight_max", "octets", "most octets in flight"),
        )
    ],
)  # fmt: skip

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


@compiled(error_model="numpy")
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    flags, d = packet.tcp_flags, packet.direction
    if flags & _RST:
        return
    # Bits of known: 1, 2 the direction's highest number; 4, 8 what the other side has acknowledged of it.
    if flags & _ACK:
        other, number = 1 - d, packet.tcp_acknowledgment
        if not state.known & (4 << other) or ahead(number, np.int64(state.acked[other])) > 0:
            state.acked[other] = number
            state.known |= 4 << other
    length = packet.payload_octets + (1 if flags & _SYN else 0) + (1 if flags & _FIN else 0)
    if length == 0:
        return
    start = packet.tcp_sequence
    end = (start + length) & 0xFFFFFFFF
    expected, now_us = np.int64(state.next[d]), (packet.time_ns // 1000) & 0xFFFFFFFF
    step = ahead(start, expected)
    if not state.known & (1 << d) or (flags & _SYN and step > 0):
        state.next[d] = end
        state.known |= 1 << d
    elif step >= 0:
        if step > 0:
            state.hole_start[d], state.hole_end[d], state.hole_us[d] = expected, start, now_us
        state.next[d] = end
    elif step == -1 and packet.payload_octets <= 1 and not flags & (_SYN | _FIN):
        return
    else:
        _classify(state, now_us, d, start, end)
        if ahead(end, expected) > 0:
            state.next[d] = end
    if packet.payload_octets > 0 and state.known & (4 << d):
        flight = ahead(np.int64(state.next[d]), np.int64(state.acked[d]))
        if flight >= 0:
            state.flight_count[d] += 1
            delta = np.float32(flight) - state.flight_mean[d]
            state.flight_mean[d] += np.float32(delta / np.float32(state.flight_count[d]))
            if flight > state.flight_most[d]:
                state.flight_most[d] = flight


@compiled
def _classify(state: Any, now_us: int, d: int, start: int, end: int) -> None:
    """Count a segment that begins before what was seen last, and take it out of the hole it fills."""
    hole_start, hole_end = np.int64(state.hole_start[d]), np.int64(state.hole_end[d])
    fills = hole_start != hole_end and ahead(start, hole_start) >= 0 and ahead(end, hole_end) <= 0
    if fills and ahead(now_us, np.int64(state.hole_us[d])) <= OUT_OF_ORDER_US:
        state.disorder[d] += 1
    else:
        state.again[d] += 1
    if fills:
        if start == hole_start:
            state.hole_start[d] = end
        else:
            state.hole_end[d] = start


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for d in range(2):
        out[at + 4 * d] = state.again[d]
        out[at + 4 * d + 1] = state.disorder[d]
        out[at + 4 * d + 2] = rounded(state.flight_mean[d])
        out[at + 4 * d + 3] = state.flight_most[d]
