"""What the packets of a flow say together: the sum of their log-probabilities, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLOW_BYTES = 250
"""Memory of a flow beside its sums: its id, its place in the table, its array (CPython 3.11)."""
_LEAST = np.float32(1e-6)
"""No single packet rules a class out."""


@dataclass
class _Flow:
    sums: NDArray[np.float32]
    packets: int
    touched_s: float
    is_scored: bool = False


class FlowVotes:
    """Sums by flow id; at most ``max_flows``, and none that was silent for ``idle_s``.

    The time is the wall clock: a flow id belongs to one flow between two silences, so to forget one that has ended
    changes no answer.
    """

    def __init__(self, max_flows: int, idle_s: float) -> None:
        self.max_flows, self.idle_s = max_flows, idle_s
        self.evicted = 0
        """Flows given up because the table was full."""
        self._flows: OrderedDict[int, _Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow_id: int, probabilities: NDArray[np.float32], now_s: float) -> tuple[int, float]:
        """Add packets of a flow; return the class that all its packets so far give, and how sure they are of it.

        Args:
            flow_id: the flow.
            probabilities: (packets, classes).
            now_s: monotonic clock.

        The confidence is the class's share of the packets' geometric mean, not of their product: packets of a
        flow repeat each other, and a product would be sure of anything after a few.
        """
        flow = self._flows.get(flow_id)
        if flow is None:
            flow = self._flows[flow_id] = _Flow(np.zeros(probabilities.shape[1], np.float32), 0, now_s)
            if len(self._flows) > self.max_flows:
                self._flows.popitem(last=False)
                self.evicted += 1
        else:
            self._flows.move_to_end(flow_id)
        flow.sums += np.log(np.maximum(probabilities, _LEAST)).sum(axis=0)
        flow.packets += len(probabilities)
        flow.touched_s = now_s
        mean = np.exp((flow.sums - flow.sums.max()) / flow.packets)
        best = int(flow.sums.argmax())
        return best, float(mean[best] / mean.sum())

    def take_for_score(self, flow_id: int) -> int | None:
        """Return the class that a flow's packets give, once for each flow; None for a flow not known."""
        flow = self._flows.get(flow_id)
        if flow is None or flow.is_scored:
            return None
        flow.is_scored = True
        return int(flow.sums.argmax())

    def forget_idle(self, now_s: float) -> None:
        """Forget the flows that have been silent for long enough."""
        while self._flows:
            flow_id, flow = next(iter(self._flows.items()))
            if flow.touched_s + self.idle_s > now_s:
                return
            del self._flows[flow_id]

    def clear(self) -> None:
        """Forget all flows."""
        self._flows.clear()

    @property
    def state_bytes(self) -> int:
        """Return about how much memory the flows take."""
        if not self._flows:
            return 0
        return len(self._flows) * (FLOW_BYTES + next(iter(self._flows.values())).sums.nbytes)
