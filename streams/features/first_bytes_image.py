"""The first 400 octets of payload as a grey image of 20 by 20 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.packets import Extra
from streams.feature import Feature, FeatureColumn, Packet, Totals

OCTETS = 400
_SIDE = 20
_HEADERS_OCTETS = 120

FEATURE = Feature(
    name="first_bytes_image",
    level="application",
    doc="The octets of the first packets' payload as pixels from 0 (black, or no octet) to 1 (white), row by row.",
    formula="pixel at row r, column c = octet 20 r + c / 255",
    reference="Traffic Refinery's ByteCopyCounters and PNGCopyCounters; Wang et al., ISI 2017",
    needs=lambda depth: Extra(head_packets=depth, head_octets=OCTETS + _HEADERS_OCTETS),
    state=lambda depth: [("filled", "u2"), ("octets", "u1", (OCTETS,))],
    columns=lambda depth: [
        FeatureColumn(f"pixel_{i // _SIDE}_{i % _SIDE}", "1", f"row {i // _SIDE}, column {i % _SIDE}, 0 to 1")
        for i in range(OCTETS)
    ],
)


@njit(cache=True, nogil=True)
def update_head(state: Any, packet: Packet, heads: NDArray[np.uint8], start: int, stop: int) -> None:
    """Take in the head of a packet: ``heads[start:stop]``."""
    at = np.int64(state.filled)
    for i in range(start + packet.octets - packet.payload_octets, stop):
        if at >= len(state.octets):
            break
        state.octets[at] = heads[i]
        at += 1
    state.filled = at


@njit(cache=True, nogil=True)
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    for i in range(OCTETS):
        out[at + i] = state.octets[i] / np.float32(255)
