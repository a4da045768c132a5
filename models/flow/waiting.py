"""The flows of a partition that a cascade knows: those that wait for further packets, and those answered of late."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow import table
from models.flow.table import HELD, NEVER, SCORED, Places, Rows

_NO_PLACES: Places = np.empty(0, np.int64)


class WaitingFlows:
    """Flows of one partition."""

    def __init__(self, tiers: int, max_waiting: int, max_flows: int) -> None:
        """Start with none.

        Args:
            tiers: of the cascade.
            max_waiting: most flows that wait.
            max_flows: most flows remembered; as many as may wait, at least.
        """
        self.tiers = tiers
        self.arrays = table.new_table(max(max_flows, max_waiting), tiers, max_waiting)

    @property
    def pool(self) -> Rows:
        """Return what flows that wait need; ``all_waiting`` tells where they stand."""
        return self.arrays.pool

    @property
    def waiting(self) -> int:
        """Return how many flows wait."""
        return int(self.arrays.meta[table.USED] - self.arrays.meta[table.FREE])

    @property
    def room(self) -> int:
        """Return how many more may wait."""
        return len(self.pool) - self.waiting

    @property
    def known(self) -> int:
        """Return how many flows are remembered."""
        return int(min(self.arrays.meta[table.HEAD], len(self.arrays.ids)))

    @property
    def state_bytes(self) -> int:
        """Return the memory that flows have touched."""
        per_flow = 8 + 4 + 2 * (self.tiers + 1)
        used = int(self.arrays.meta[table.USED])
        return self.known * per_flow + self.arrays.slots.nbytes + used * (HELD.itemsize + 36)

    def find(self, flows: NDArray[np.uint64]) -> Places:
        """Return the place of each flow, -1 where it is not known."""
        out: Places = np.empty(len(flows), np.int64)
        table.find_all(self.arrays, np.ascontiguousarray(flows), out)
        return out

    def overwritten(self, count: int) -> Places:
        """Return where in the pool those wait whom the next ``count`` flows would overwrite: answer them first."""
        arrays = self.arrays
        head, size = int(arrays.meta[table.HEAD]), len(arrays.ids)
        if head + count <= size or not self.waiting:
            return np.empty(0, np.int64)
        held = arrays.held[np.arange(max(head, size), head + min(count, size)) % size]
        return np.unique(held[held >= 0]).astype(np.int64)

    def admit(self, flows: NDArray[np.uint64]) -> Places:
        """Remember flows; return the place of each, -1 where it is known already (as the second of two equal)."""
        out: Places = np.empty(len(flows), np.int64)
        table.admit_all(self.arrays, np.ascontiguousarray(flows), out)
        return out

    def note(self, places: Places, tier: int, classes: NDArray[Any]) -> None:
        """Note what a tier said of flows."""
        self.arrays.said[places, tier] = classes

    def finish(self, places: Places, classes: NDArray[Any]) -> None:
        """Note the final answer of flows, whose places in the pool become free."""
        table.finish_all(self.arrays, places, classes.astype(np.int64))

    def hold(self, places: Places, rows: Rows, deadline_ns: Places, clock_ns: int) -> None:
        """Have flows wait, until an event time each and a wall clock; there must be room for them.

        A flow that waits already is held anew with its deadlines.
        """
        table.hold_all(self.arrays, places, rows, deadline_ns.astype(np.int64), clock_ns)

    def held(self, places: Places) -> NDArray[np.int32]:
        """Return where in the pool flows wait; negative where they do not."""
        return self.arrays.held[places]

    def entries(self, held: Places | NDArray[np.int32]) -> Places:
        """Return the places of flows that wait at these places of the pool."""
        return self.arrays.entry[held]

    def due(self, watermarks_ns: Places, now_ns: int) -> Places:
        """Return where in the pool those wait whose time is over.

        Args:
            watermarks_ns: event time of each probe.
            now_ns: the clock that ``hold`` was told.
        """
        if not self.waiting or not table.is_due(self.arrays, watermarks_ns, now_ns):
            return _NO_PLACES
        due: Places = table.due(self.arrays, watermarks_ns, now_ns)
        return due

    def all_waiting(self) -> Places:
        """Return where in the pool flows wait."""
        return np.flatnonzero(self.arrays.deadline_ns[: int(self.arrays.meta[table.USED])] != NEVER)

    def deadlines_ns(self, held: Places) -> Places:
        """Return the event time until which flows at these places of the pool wait."""
        return self.arrays.deadline_ns[held]

    def score(self, place: int) -> None:
        """Note that a flow's label has come."""
        self.arrays.held[place] = SCORED

    def is_scored(self, place: int) -> bool:
        """Return whether a flow's label has come."""
        return bool(self.arrays.held[place] == SCORED)

    def said(self, place: int) -> list[int]:
        """Return the class that each tier said of a flow, last the final one; NOTHING where there is none."""
        out: list[int] = self.arrays.said[place].tolist()
        return out
