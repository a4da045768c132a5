"""Header bits of the first packets, as nPrint lays them out, without what tells hosts and connections apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.packets import Extra
from streams.feature import Feature, FeatureColumn, Packet, StateFields, Totals
from streams.header_layout import BYTES, HEADERS, MOST_PACKETS, copy_headers, emit_bits

MASKED = True


def _state(depth: int) -> StateFields:
    packets = min(depth, MOST_PACKETS)
    return [("seen", "u1"), ("octets", "u1", (packets, BYTES)), ("present", "u1", (packets, len(HEADERS)))]


def _columns(depth: int) -> list[FeatureColumn]:
    return [
        FeatureColumn(
            f"{name}_{bit}_{packet}", "1", f"bit {bit} of the {name} header, packet {packet}, -1: none"
        )
        for packet in range(1, min(depth, MOST_PACKETS) + 1)
        for name, octets in HEADERS
        for bit in range(8 * octets)
    ]


FEATURE = Feature(
    name="header_bits",
    level="transport",
    doc="Each bit of the IPv4, IPv6, TCP, UDP and ICMP headers of the first 8 packets at most: 0, 1, or -1 where "
    "there is no such header or option; what tells hosts and connections apart is always 0.",
    formula="bit = (octet >> (7 - bit % 8)) & 1, headers in the order of nPrint, options included",
    reference="Holland et al., New Directions in Automated Traffic Analysis (nPrint), CCS 2021",
    needs=lambda depth: Extra(head_packets=min(depth, MOST_PACKETS), head_octets=120),
    state=_state,
    columns=_columns,
)


@njit(cache=True, nogil=True)
def update_head(state: Any, packet: Packet, heads: NDArray[np.uint8], start: int, stop: int) -> None:
    """Take in the head of a packet: ``heads[start:stop]``."""
    if packet.depth != state.seen + 1 or state.seen >= len(state.octets):
        return
    copy_headers(state.octets[state.seen], state.present[state.seen], packet, heads, start, stop, MASKED)
    state.seen += 1


@njit(cache=True, nogil=True)
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(len(state.octets)):
        at = emit_bits(state.octets[i], state.present[i], out, at)
