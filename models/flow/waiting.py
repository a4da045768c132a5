"""The flows of a partition that a cascade knows: those that wait for further packets, and those answered of late.

Arrays and compiled functions, since thousands of flows come and go each second. A ring holds a flow's id and what was
said of it, the oldest overwritten by the newest; an index with open addressing finds it by its id. What a flow that
waits needs besides (``Held``) lies in a pool of its own. Memory that no flow has used yet costs nothing: the operating
system maps a page when it is first written.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.void]
Places = NDArray[np.int64]

HELD: np.dtype[Any] = np.dtype(
    [
        ("flow_id", "<u8"),
        ("source_address", "u1", (16,)),
        ("destination_address", "u1", (16,)),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
        ("flow_end_reason", "u1"),
        ("replayed", "?"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("depth", "<u4"),
        ("probe", "<u2"),
        ("representation", "<u2"),
        ("probe_time_ns", "<i8"),
        ("bus_to_flows_ns", "<i8"),
        ("flows_ns", "<i8"),
        ("bus_to_model_ns", "<i8"),
        ("received_ns", "<i8"),
        ("class", "<i2"),
        ("unknown", "?"),
        ("tier", "<i1"),
        ("next_tier", "<i1"),
        ("confidence", "<f4"),
        ("ood", "<f4"),
    ]
)
"""What a prediction about a flow says, and which tier the flow waits for. ``class`` and ``tier`` are -1 before an
answer; ``probe`` and ``representation`` number names that whoever holds the rows keeps."""

NEVER = (1 << 62) - 1
DONE, SCORED = -1, -2
"""In place of a place in the pool: the flow has its final answer; its label has come, too."""
NOTHING = -1
UNKNOWN = -2
"""In place of a class."""
_HEAD, _SHIFT, _SECRET = 0, 1, 2


class Ring(NamedTuple):
    """Flows by id, the newest ``len(ids)`` of them; a named tuple, so that Numba takes it."""

    ids: NDArray[np.uint64]
    held: NDArray[np.int32]
    """Place in the pool of what the flow waits with; DONE or SCORED."""
    said: NDArray[np.int16]
    """(flows, tiers + 1) class by tier, last the final one; NOTHING before an answer."""
    slots: NDArray[np.uint32]
    """Place in the ring + 1, or 0."""
    meta: NDArray[np.int64]


def _new_ring(flows: int, tiers: int) -> Ring:
    bits = (2 * flows - 1).bit_length()
    # An odd factor that nobody outside knows: flow ids cannot be chosen to fall on one place.
    secret = int.from_bytes(os.urandom(8), "little", signed=True) | 1
    return Ring(
        ids=np.zeros(flows, np.uint64),
        held=np.zeros(flows, np.int32),
        said=np.zeros((flows, tiers + 1), np.int16),
        slots=np.zeros(1 << bits, np.uint32),
        meta=np.array([0, 64 - bits, secret], np.int64),
    )


@njit(cache=True, nogil=True, inline="always")
def _home(ring: Ring, flow: np.uint64) -> np.uint64:
    mixed = (flow ^ (flow >> np.uint64(29))) * np.uint64(ring.meta[_SECRET])
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(ring.meta[_SHIFT])


@njit(cache=True, nogil=True, inline="always")
def _find(ring: Ring, flow: np.uint64) -> int:
    mask = np.uint64(len(ring.slots) - 1)
    at = _home(ring, flow)
    while True:
        entry = ring.slots[at]
        if entry == 0:
            return -1
        if ring.ids[entry - 1] == flow:
            return np.int64(entry) - 1  # type: ignore[return-value]
        at = (at + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _find_all(ring: Ring, flows: NDArray[np.uint64], out: Places) -> None:
    for i in range(len(flows)):
        out[i] = _find(ring, flows[i])


@njit(cache=True, nogil=True)
def _remove(ring: Ring, place: int) -> None:
    """Take a flow out of the index, closing the gap (Knuth, TAOCP 6.4, algorithm R)."""
    slots = ring.slots
    mask, one = np.uint64(len(slots) - 1), np.uint64(1)
    at = _home(ring, ring.ids[place])
    while slots[at] != place + 1:
        at = (at + one) & mask
    gap = at
    while True:
        at = (at + one) & mask
        entry = slots[at]
        if entry == 0:
            break
        home = _home(ring, ring.ids[entry - 1])
        if ((at - home) & mask) >= ((at - gap) & mask):
            slots[gap] = entry
            gap = at
    slots[gap] = 0


@njit(cache=True, nogil=True)
def _admit(ring: Ring, flows: NDArray[np.uint64], out: Places) -> None:
    """Enter flows, in place of the oldest; ``out``: the place of each, -1 where it is known already."""
    size = len(ring.ids)
    mask = np.uint64(len(ring.slots) - 1)
    for i in range(len(flows)):
        if _find(ring, flows[i]) >= 0:
            out[i] = -1
            continue
        head = ring.meta[_HEAD]
        place = head % size
        if head >= size:
            _remove(ring, place)
        ring.meta[_HEAD] = head + 1
        ring.ids[place] = flows[i]
        ring.held[place] = DONE
        ring.said[place, :] = NOTHING
        at = _home(ring, flows[i])
        while ring.slots[at] != 0:
            at = (at + np.uint64(1)) & mask
        ring.slots[at] = place + 1
        out[i] = place


@njit(cache=True, nogil=True)
def _due(
    deadline_ns: Places,
    clock_ns: Places,
    probe: NDArray[np.uint16],
    watermarks_ns: Places,
    now_ns: int,
    out: Places,
) -> int:
    found = 0
    for i in range(len(deadline_ns)):
        if deadline_ns[i] < watermarks_ns[probe[i]] or clock_ns[i] < now_ns:
            out[found] = i
            found += 1
    return found


class WaitingFlows:
    """Flows of one partition."""

    def __init__(self, tiers: int, max_waiting: int, max_flows: int) -> None:
        """Start with none.

        Args:
            tiers: of the cascade.
            max_waiting: most flows that wait.
            max_flows: most flows remembered; as many as may wait, at least.
        """
        max_flows = max(max_flows, max_waiting)
        self.tiers = tiers
        self.pool: Rows = np.zeros(max_waiting, HELD)
        self._ring = _new_ring(max_flows, tiers)
        self._deadline_ns: Places = np.zeros(max_waiting, np.int64)
        self._clock_ns: Places = np.zeros(max_waiting, np.int64)
        self._entry: Places = np.zeros(max_waiting, np.int64)
        """Place in the ring of each flow in the pool."""
        self._free: list[int] = []
        self._used = 0
        """Places of the pool that were ever used: those from there on are free, too."""
        self._found: Places = np.empty(max_waiting, np.int64)

    @property
    def waiting(self) -> int:
        """Return how many flows wait."""
        return self._used - len(self._free)

    @property
    def room(self) -> int:
        """Return how many more may wait."""
        return len(self.pool) - self.waiting

    @property
    def known(self) -> int:
        """Return how many flows are remembered."""
        return int(min(self._ring.meta[_HEAD], len(self._ring.ids)))

    @property
    def state_bytes(self) -> int:
        """Return the memory that flows have touched."""
        per_flow = 8 + 4 + 2 * (self.tiers + 1)
        return self.known * per_flow + self._ring.slots.nbytes + self._used * (HELD.itemsize + 24)

    def find(self, flows: NDArray[np.uint64]) -> Places:
        """Return the place of each flow, -1 where it is not known."""
        out: Places = np.empty(len(flows), np.int64)
        _find_all(self._ring, np.ascontiguousarray(flows), out)
        return out

    def overwritten(self, count: int) -> Places:
        """Return where in the pool those wait whom the next ``count`` flows would overwrite: answer them first."""
        ring = self._ring
        head, size = int(ring.meta[_HEAD]), len(ring.ids)
        if head + count <= size or not self.waiting:
            return np.empty(0, np.int64)
        held = ring.held[np.arange(max(head, size), head + min(count, size)) % size]
        return np.unique(held[held >= 0]).astype(np.int64)

    def admit(self, flows: NDArray[np.uint64]) -> Places:
        """Remember flows; return the place of each, -1 where it is known already (as the second of two equal)."""
        out: Places = np.empty(len(flows), np.int64)
        _admit(self._ring, np.ascontiguousarray(flows), out)
        return out

    def note(self, places: Places, tier: int, classes: NDArray[Any]) -> None:
        """Note what a tier said of flows."""
        self._ring.said[places, tier] = classes

    def finish(self, places: Places, classes: NDArray[Any]) -> None:
        """Note the final answer of flows, whose places in the pool become free."""
        held = self._ring.held[places]
        freed = held[held >= 0]
        self._deadline_ns[freed] = self._clock_ns[freed] = NEVER
        self._free += freed.tolist()
        self._ring.held[places] = DONE
        self._ring.said[places, self.tiers] = classes

    def hold(self, places: Places, rows: Rows, deadline_ns: Places, clock_ns: int) -> None:
        """Have flows wait, until an event time each and a wall clock; there must be room for them.

        A flow that waits already is held anew with its deadlines.
        """
        held = self._ring.held[places]
        new = np.flatnonzero(held < 0)
        if len(new):
            held[new] = taken = self._take(len(new))
            self._ring.held[places] = held
            self._entry[taken] = places[new]
            self._deadline_ns[taken] = deadline_ns[new]
            self._clock_ns[taken] = clock_ns
        self.pool[held] = rows

    def _take(self, count: int) -> NDArray[np.int32]:
        old = min(count, len(self._free))
        taken = self._free[len(self._free) - old :]
        del self._free[len(self._free) - old :]
        taken += range(self._used, self._used + count - old)
        self._used += count - old
        return np.array(taken, np.int32)

    def held(self, places: Places) -> NDArray[np.int32]:
        """Return where in the pool flows wait; negative where they do not."""
        return self._ring.held[places]

    def entries(self, held: Places | NDArray[np.int32]) -> Places:
        """Return the places of flows that wait at these places of the pool."""
        return self._entry[held]

    def due(self, watermarks_ns: Places, now_ns: int) -> Places:
        """Return where in the pool those wait whose time is over.

        Args:
            watermarks_ns: event time of each probe.
            now_ns: the clock that ``hold`` was told.
        """
        n = self._used
        if not self.waiting:
            return self._found[:0]
        probe = np.ascontiguousarray(self.pool["probe"][:n])
        found = _due(self._deadline_ns[:n], self._clock_ns[:n], probe, watermarks_ns, now_ns, self._found)
        return self._found[:found].copy()

    def all_waiting(self) -> Places:
        """Return where in the pool flows wait."""
        return np.flatnonzero(self._deadline_ns[: self._used] != NEVER)

    def deadlines_ns(self, held: Places) -> Places:
        """Return the event time until which flows at these places of the pool wait."""
        return self._deadline_ns[held]

    def score(self, place: int) -> None:
        """Note that a flow's label has come."""
        self._ring.held[place] = SCORED

    def is_scored(self, place: int) -> bool:
        """Return whether a flow's label has come."""
        return bool(self._ring.held[place] == SCORED)

    def said(self, place: int) -> list[int]:
        """Return the class that each tier said of a flow, last the final one; NOTHING where there is none."""
        out: list[int] = self._ring.said[place].tolist()
        return out
