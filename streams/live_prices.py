"""What services and feature sets cost while the system runs, for ``telemetry.cost``.

CPU is the flow table's, measured for each packet batch and split over the batch's services by their packets: it cannot
be told apart further without slowing it down, so services that always come in the same batches get the same price.
What a service's features alone add is told by ``flowgauge cost -r SERVICE``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from streams.plan import Plan
from streams.table import WINDOW_FIELDS

Gauge = Callable[[str, float | None], None]
EVERY_FLOW = "every_flow"
"""Stands for the services where none is named."""
UNKNOWN = "unknown"
_COUNTS_BYTES = np.dtype(WINDOW_FIELDS).itemsize


class LivePrices:
    """Prices of one worker, of the time since they were told last."""

    def __init__(self, plan: Plan) -> None:
        names = (UNKNOWN, *plan.services) if plan.services else (EVERY_FLOW,)
        self._services = names
        # Lists: so short an array costs several times as much, and this is done for each message.
        self._cpu_ns = [0.0] * len(names)
        self._packets = [0] * len(names)
        self._rows: Counter[str] = Counter()
        self._octets: Counter[str] = Counter()
        self._state = {
            rep.name: sum(s.feature.dtype(rep.settings.depth).itemsize for s in rep.slots if s.stateful)
            + _COUNTS_BYTES * (rep.settings.kind == "window")
            for rep in plan.representations
        }

    def folded(self, cpu_ns: int, before: Sequence[int], after: Sequence[int]) -> None:
        """Note a packet batch: the CPU time it took, and the packets so far by service before and after it."""
        each_ns = cpu_ns / max(1, sum(after) - sum(before))
        for at, (had, has) in enumerate(zip(before, after, strict=True)):
            if packets := has - had:
                self._packets[at] += packets
                self._cpu_ns[at] += packets * each_ns

    def produced(self, representation: str, rows: int, octets: int) -> None:
        """Note a message of rows."""
        self._rows[representation] += rows
        self._octets[representation] += octets

    def tell(self, gauge: Gauge) -> None:
        """Set the prices that something was measured of, take the others away, and begin anew."""
        for name, cpu_ns, packets in zip(self._services, self._cpu_ns, self._packets, strict=True):
            gauge(f"cpu_ns_per_packet_{name}", cpu_ns / packets if packets else None)
        for name, state in self._state.items():
            rows = self._rows[name]
            gauge(f"state_bytes_per_flow_{name}", state)
            gauge(f"record_bytes_{name}", self._octets[name] / rows if rows else None)
        self._cpu_ns[:] = [0.0] * len(self._services)
        self._packets[:] = [0] * len(self._services)
        self._rows.clear()
        self._octets.clear()
