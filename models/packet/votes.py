"""What the packets of a flow say together: the sum of their log-probabilities, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numba import njit
from numpy.typing import NDArray

FLOW_BYTES = 150
"""Memory of a flow beside its sums: its id, its place in the table, its numbers (CPython 3.11)."""
_LEAST = np.float32(1e-6)
"""No single packet rules a class out."""


class FlowVotes:
    """Sums by flow id; at most ``max_flows``, and none that was silent for ``idle_s``.

    The time is the wall clock: a flow id belongs to one flow between two silences, so to forget one that has ended
    changes no answer.
    """

    def __init__(self, max_flows: int, idle_s: float) -> None:
        self.max_flows, self.idle_s = max_flows, idle_s
        self.evicted = 0
        """Flows given up because the table was full."""
        self._flows: OrderedDict[int, int] = OrderedDict()
        """Place of each flow in the arrays, longest silent first."""
        self._free: list[int] = []
        self._sums: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._packets: NDArray[np.int64] = np.zeros(0, np.int64)
        self._touched_s: list[float] = []
        self._scored: set[int] = set()

    def __len__(self) -> int:
        return len(self._flows)

    def add(
        self,
        flow_ids: list[int],
        probabilities: NDArray[np.float32],
        flow_index: NDArray[np.int64],
        now_s: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Add packets; return the class that all packets so far of each flow give, and how sure they are of it.

        Args:
            flow_ids: the flows, each of which has a packet.
            probabilities: (packets, classes).
            flow_index: (packets,) index into ``flow_ids``.
            now_s: monotonic clock.

        The confidence is the class's share of the packets' geometric mean, not of their product: packets of a
        flow repeat each other, and a product would be sure of anything after a few.
        """
        classes = probabilities.shape[1]
        places = np.array([self._place(flow_id, classes, now_s) for flow_id in flow_ids], np.int64)
        labels, confidences = np.empty(len(places), np.int64), np.empty(len(places), np.float64)
        _add(self._sums, self._packets, places, probabilities, flow_index, labels, confidences)
        while len(self._flows) > self.max_flows:
            self._forget(next(iter(self._flows)))
            self.evicted += 1
        return labels, confidences

    def _place(self, flow_id: int, classes: int, now_s: float) -> int:
        place = self._flows.get(flow_id)
        if place is None:
            if not self._free:
                self._grow(classes)
            place = self._flows[flow_id] = self._free.pop()
            self._sums[place], self._packets[place] = 0, 0
        else:
            self._flows.move_to_end(flow_id)
        self._touched_s[place] = now_s
        return place

    def _grow(self, classes: int) -> None:
        """Make twice as much room."""
        before = len(self._packets)
        more = max(64, before)
        sums = np.zeros((before + more, classes), np.float32)
        if before:
            sums[:before] = self._sums
        self._sums, self._packets = sums, np.concatenate((self._packets, np.zeros(more, np.int64)))
        self._touched_s += [0.0] * more
        self._free += range(before + more - 1, before - 1, -1)

    def _forget(self, flow_id: int) -> None:
        self._free.append(self._flows.pop(flow_id))
        self._scored.discard(flow_id)

    def take_for_score(self, flow_id: int) -> int | None:
        """Return the class that a flow's packets give, once for each flow; None for a flow not known."""
        place = self._flows.get(flow_id)
        if place is None or flow_id in self._scored:
            return None
        self._scored.add(flow_id)
        return int(self._sums[place].argmax())

    def forget_idle(self, now_s: float) -> None:
        """Forget the flows that have been silent for long enough."""
        while self._flows:
            flow_id, place = next(iter(self._flows.items()))
            if self._touched_s[place] + self.idle_s > now_s:
                return
            self._forget(flow_id)

    def clear(self) -> None:
        """Forget all flows, and how many classes they were of."""
        for held in (self._flows, self._free, self._touched_s, self._scored):
            held.clear()
        self._sums, self._packets = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)

    @property
    def state_bytes(self) -> int:
        """Return about how much memory the flows take."""
        return len(self._flows) * FLOW_BYTES + self._sums.nbytes


def warm_up() -> None:
    """Have what is compiled here compiled, or loaded, before a message waits for it."""
    FlowVotes(1, 1.0).add([1], np.ones((1, 1), np.float32), np.zeros(1, np.int64), 0.0)


@njit(cache=True, nogil=True)
def _add(
    sums: NDArray[np.float32],
    packets: NDArray[np.int64],
    places: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    flow_index: NDArray[np.int64],
    labels: NDArray[np.int64],
    confidences: NDArray[np.float64],
) -> None:
    classes = probabilities.shape[1]
    for i in range(len(flow_index)):
        place = places[flow_index[i]]
        packets[place] += 1
        for c in range(classes):
            sums[place, c] += np.log(max(probabilities[i, c], _LEAST))
    for flow in range(len(places)):
        place = places[flow]
        best = 0
        for c in range(1, classes):
            if sums[place, c] > sums[place, best]:
                best = c
        total = 0.0
        for c in range(classes):
            total += np.exp((sums[place, c] - sums[place, best]) / packets[place])
        labels[flow], confidences[flow] = best, 1 / total
