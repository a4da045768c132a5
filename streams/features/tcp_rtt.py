"""Round-trip time between the probe and each end, from TCP acknowledgments, and its jitter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.packets import Extra
from streams.feature import Feature, FeatureColumn, Packet, Totals
from streams.rounding import rounded
from streams.serial import ahead

FEATURE = Feature(
    name="tcp_rtt",
    level="transport",
    doc="Time from a segment to its acknowledgment as the probe sees it, each way; 0 without a sample.",
    formula="One segment each way is timed at once: the sample is the time until an acknowledgment at or beyond its "
    "end. A segment sent again ends the timing without a sample (Karn). Jitter: J <- J + (|sample - the one before| "
    "- J) / 16, on across windows. fwd: from the source's segment to the destination's acknowledgment.",
    reference="RFC 6298, section 3; Karn and Partridge, SIGCOMM 1987; the jitter is that of RFC 3550, section 6.4.1",
    needs=lambda depth: Extra(tcp=True),
    kept=("next", "end", "sent_us", "last_us", "jitter", "known"),
    state=lambda depth: [
        ("next", "u4", (2,)), ("end", "u4", (2,)), ("sent_us", "u4", (2,)), ("last_us", "f4", (2,)),
        ("known", "u1"), ("count", "u4", (2,)), ("mean", "f4", (2,)), ("m2", "f4", (2,)), ("least", "f4", (2,)),
        ("most", "f4", (2,)), ("jitter", "f4", (2,)),
    ],
    columns=lambda depth: [
        FeatureColumn(f"{name}_{way}", unit, f"{words} {which}")
        for way, which in (("fwd", "to the destination and back"), ("rev", "to the source and back"))
        for name, unit, words in (
            ("rtt_mean_us", "us", "mean time"),
            ("rtt_std_us", "us", "population standard deviation of the time"),
            ("rtt_min_us", "us", "shortest time"),
            ("rtt_max_us", "us", "longest time"),
            ("rtt_jitter_us", "us", "jitter of the time"),
            ("rtt_samples", "1", "samples of the time"),
        )
    ],
)  # fmt: skip

_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    flags, d = packet.tcp_flags, packet.direction
    if flags & _RST:
        return
    # Bits of known: 1, 2 the direction's highest number; 4, 8 a segment of it is timed; 16, 32 there is a sample.
    other = 1 - d
    timed = flags & _ACK and state.known & (4 << other)
    if timed and ahead(packet.tcp_acknowledgment, np.int64(state.end[other])) >= 0:
        state.known &= ~(4 << other) & 0xFF
        _sample(state, other, max(0, ahead(packet.time_ns // 1000, np.int64(state.sent_us[other]))))
    length = packet.payload_octets + (1 if flags & _SYN else 0) + (1 if flags & _FIN else 0)
    if length == 0:
        return
    end = (packet.tcp_sequence + length) & 0xFFFFFFFF
    fresh = not state.known & (1 << d) or ahead(packet.tcp_sequence, np.int64(state.next[d])) >= 0
    if fresh:
        state.next[d] = end
        state.known |= 1 << d
        if not state.known & (4 << d):
            state.end[d], state.sent_us[d] = end, (packet.time_ns // 1000) & 0xFFFFFFFF
            state.known |= 4 << d
    elif state.known & (4 << d) and ahead(np.int64(state.end[d]), packet.tcp_sequence) > 0:
        state.known &= ~(4 << d) & 0xFF


@compiled(error_model="numpy")
def _sample(state: Any, d: int, rtt_us: int) -> None:
    rtt = np.float32(rtt_us)
    if state.known & (16 << d):
        state.jitter[d] += np.float32((abs(rtt - state.last_us[d]) - state.jitter[d]) / np.float32(16))
    state.last_us[d] = rtt
    state.known |= 16 << d
    state.count[d] += 1
    delta = rtt - state.mean[d]
    state.mean[d] += np.float32(delta / np.float32(state.count[d]))
    state.m2[d] += np.float32(delta * (rtt - state.mean[d]))
    if state.count[d] == 1 or rtt < state.least[d]:
        state.least[d] = rtt
    if rtt > state.most[d]:
        state.most[d] = rtt


@compiled(error_model="numpy")
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for d in range(2):
        first, count = at + 6 * d, float(state.count[d])
        out[first] = rounded(state.mean[d])
        out[first + 1] = rounded(np.sqrt(max(0.0, state.m2[d] / count))) if count > 0 else 0.0
        out[first + 2] = rounded(state.least[d])
        out[first + 3] = rounded(state.most[d])
        out[first + 4] = rounded(state.jitter[d])
        out[first + 5] = count
