"""Where the payloads of decoded packets lie in the buffer they were decoded from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAGMENT = -1
"""Value of ``Spans.start`` for a fragment: what follows its IP header is no whole payload."""


class Spans(NamedTuple):
    """One row per decoded packet, beside its columns; good until the buffer's bytes move."""

    start: NDArray[np.int64]
    """Index of the first byte behind the IP header, or FRAGMENT."""
    stop: NDArray[np.int64]
    """Index after the packet's last captured byte."""
    ip_octets: NDArray[np.int64]
    """Length of the IP header, extension headers included."""


def allocate_spans(rows: int) -> Spans:
    """Return spans with room for ``rows`` packets."""
    return Spans(*(np.zeros(rows, np.int64) for _ in Spans._fields))
