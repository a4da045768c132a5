"""How many packets carry each TCP flag, each way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.feature import Feature, FeatureColumn, Packet, Totals

# FIN, SYN, RST, PSH, ACK, URG: the bits 0 to 5.
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg")

FEATURE = Feature(
    name="tcp_flag_counts",
    level="transport",
    doc="Packets with each TCP flag, each way; 0 for other protocols.",
    formula="number of packets whose TCP flags have the bit set",
    reference="RFC 9293, section 3.1; IPFIX tcpControlBits",
    state=lambda depth: [("counts", "u4", (12,))],
    columns=lambda depth: [
        FeatureColumn(f"{flag}_{way}", "packets", f"packets with {flag.upper()} {words}")
        for way, words in (("fwd", "from the source"), ("rev", "to the source"))
        for flag in FLAGS
    ],
)


@njit(cache=True, nogil=True)
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    if packet.tcp_flags == 0:
        return
    first = 6 * packet.direction
    for bit in range(6):
        state.counts[first + bit] += (packet.tcp_flags >> bit) & 1


@njit(cache=True, nogil=True)
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(12):
        out[at + i] = state.counts[i]
