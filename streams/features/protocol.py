"""Transport protocol, as indicators that a model can use without treating the number as a quantity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled
from schemas.flow_key import TCP, UDP
from streams.feature import Feature, FeatureColumn, Totals

FEATURE = Feature(
    name="protocol",
    level="transport",
    doc="Which transport protocol and IP version carry the flow.",
    state=lambda depth: [],
    columns=lambda depth: [
        FeatureColumn("is_tcp", "1", "1 for TCP, else 0"),
        FeatureColumn("is_udp", "1", "1 for UDP, else 0"),
        FeatureColumn("is_ipv6", "1", "1 for IPv6, else 0"),
    ],
)


@compiled
def emit(state: Any, totals: Totals, out: NDArray[np.float32], at: int) -> None:
    """Write the columns of ``FEATURE``."""
    out[at] = totals.protocol == TCP
    out[at + 1] = totals.protocol == UDP
    out[at + 2] = totals.ip_version == 6
