"""What NetFlow v9 and IPFIX exporters tell of a flow, each way, beside the fields that every row has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from streams.feature import Feature, FeatureColumn, Packet, Totals

_TELLS = (
    ("minimum_ip_total_length", "octets", "25", "shortest packet"),
    ("maximum_ip_total_length", "octets", "26", "longest packet"),
    ("minimum_ttl", "hops", "52", "smallest time to live"),
    ("maximum_ttl", "hops", "53", "largest time to live"),
    ("tcp_control_bits", "1", "6", "union of the TCP flags"),
)

FEATURE = Feature(
    name="ipfix",
    level="network",
    doc="Fields of NetFlow v9 and IPFIX by their names; 0 for a direction without packets. Numbers are those of the "
    "information elements; _rev are the reverse elements. Addresses, ports, protocol, times, packets, octets and the "
    "end reason (8, 27, 7, 4, 152, 153, 2, 1, 136) are in every row.",
    formula="minimum, maximum or union over the packets of a direction",
    reference="RFC 3954; RFC 7012 and IANA's IPFIX registry; RFC 5103 for the reverse elements",
    # Minima are kept as distances from the largest value, so that a state of zeros is that of no packets.
    state=lambda depth: [
        ("below", "u2", (2,)), ("most", "u2", (2,)), ("ttl_below", "u1", (2,)), ("ttl_most", "u1", (2,)),
        ("flags", "u1", (2,)),
    ],
    columns=lambda depth: [
        FeatureColumn("flow_duration_milliseconds", "ms", "element 161: duration of the flow or window"),
        *(
            FeatureColumn(f"{name}_{way}", unit, f"element {number}: {words} {which} the source")
            for way, which in (("fwd", "from"), ("rev", "to"))
            for name, unit, number, words in _TELLS
        ),
    ],
)  # fmt: skip


@compiled
def update(state: Any, packet: Packet) -> None:
    """Fold a packet in."""
    d, octets = packet.direction, min(packet.octets, 65535)
    if 65535 - octets > state.below[d]:
        state.below[d] = 65535 - octets
    if octets > state.most[d]:
        state.most[d] = octets
    if 255 - packet.ttl > state.ttl_below[d]:
        state.ttl_below[d] = 255 - packet.ttl
    if packet.ttl > state.ttl_most[d]:
        state.ttl_most[d] = packet.ttl
    state.flags[d] |= packet.tcp_flags


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = totals.duration_ns * 1e-6
    for d in range(2):
        first = at + 1 + 5 * d
        seen = totals.packets_fwd if d == 0 else totals.packets_rev
        out[first] = 65535 - state.below[d] if seen > 0 else 0
        out[first + 1] = state.most[d]
        out[first + 2] = 255 - state.ttl_below[d] if seen > 0 else 0
        out[first + 3] = state.ttl_most[d]
        out[first + 4] = state.flags[d]
