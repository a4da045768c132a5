"""Header bits of the first packets, as nPrint lays them out, without what tells hosts and connections apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, Packet, Totals
from streams.header_layout import emit_headers, head_needs, header_columns, header_state, keep_headers

FEATURE = Feature(
    name="header_bits",
    level="transport",
    doc="Each bit of the IPv4, IPv6, TCP, UDP and ICMP headers of the first 8 packets at most: 0, 1, or -1 where "
    "there is no such header or option; what tells hosts and connections apart is always 0.",
    formula="bit = (octet >> (7 - bit % 8)) & 1, headers in the order of nPrint, options included",
    reference="Holland et al., New Directions in Automated Traffic Analysis (nPrint), CCS 2021",
    needs=head_needs,
    state=header_state,
    columns=header_columns,
)


@compiled
def update_head(state: Any, packet: Packet, heads: NDArray[np.uint8], start: int, stop: int) -> None:
    """Take in the head of a packet: ``heads[start:stop]``."""
    keep_headers(state, packet, heads, start, stop, True)


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    emit_headers(state, out, at)
