"""Numbers that the kernels and the code around them agree on."""

from __future__ import annotations

from typing import NamedTuple

FIN, SYN, RST, ACK = 1, 2, 4, 16
IDLE_TIMEOUT, ACTIVE_TIMEOUT, END_OF_FLOW, FORCED_END, LACK_OF_RESOURCES = 1, 2, 3, 4, 5

NEVER = (1 << 62) - 1
"""An event time that does not come."""
ROOM = 4
"""Rows of one representation that a single packet may emit at most: it may evict one flow and end another."""

DONE, FULL, STEP_BACK = 0, 1, 2

# Places in the counters: CLOSED + flow end reason counts the flows that ended for it.
LATE, REORDERED, OPENED, CLOSED, COUNTERS = 0, 1, 2, 3, 9


class Limits(NamedTuple):
    """Timeouts of the flow table in ns of event time."""

    idle_ns: int
    active_ns: int
    linger_ns: int
    lateness_ns: int
    step_back_ns: int
    """A packet this much older than the newest means that the clock was set back, or another capture began."""
