"""How many packets carry each TCP flag, each way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

# FIN, SYN, RST, PSH, ACK, URG: the bits 0 to 5.
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg")
_RARE_BITS = (0, 1, 2, 5)
_RARE = 0b100111

FEATURE = Feature(
    name="tcp_flag_counts",
    level="transport",
    doc="Packets with each TCP flag, each way; 0 for other protocols.",
    formula="number of packets whose TCP flags have the bit set",
    reference="RFC 9293, section 3.1; IPFIX tcpControlBits",
    # The flags that most packets carry need more room than the others, which stop at 65,535.
    state=lambda depth: [("common", "u4", (4,)), ("rare", "u2", (8,))],
    columns=lambda depth: [
        FeatureColumn(f"{flag}_{way}", "packets", f"packets with {flag.upper()} {words}")
        for way, words in (("fwd", "from the source"), ("rev", "to the source"))
        for flag in FLAGS
    ],
)


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.tcp_flags == 0:
        return
    d, flags = packet.direction, packet.tcp_flags
    state.common[2 * d] += (flags >> 3) & 1
    state.common[2 * d + 1] += (flags >> 4) & 1
    if flags & _RARE:
        for i in range(4):
            if state.rare[4 * d + i] < 65535:
                state.rare[4 * d + i] += (flags >> _RARE_BITS[i]) & 1


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for d in range(2):
        first = at + 6 * d
        for i in range(3):
            out[first + i] = state.rare[4 * d + i]
        out[first + 3], out[first + 4] = state.common[2 * d], state.common[2 * d + 1]
        out[first + 5] = state.rare[4 * d + 3]
