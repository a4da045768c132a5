"""Arrays of the flows that a cascade knows in a partition, and compiled functions on them: thousands come and go each
second.

A ring holds a flow's id and what was
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

from schemas.compiled import compiled

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
HEAD, SHIFT, SECRET, USED, FREE, CALL, SOONEST, SOONEST_CLOCK = range(8)
"""Places in ``Table.meta``."""


class Table(NamedTuple):
    """Arrays of ``WaitingFlows``; a named tuple, so that Numba takes it."""

    ids: NDArray[np.uint64]
    """(flows,) the newest flows, in the order in which they came, from anywhere in it."""
    held: NDArray[np.int32]
    """Place in the pool of what the flow waits with; DONE or SCORED."""
    said: NDArray[np.int16]
    """(flows, tiers + 1) class by tier, last the final one; NOTHING before an answer."""
    slots: NDArray[np.uint32]
    """Place in the ring + 1, or 0."""
    pool: Rows
    deadline_ns: Places
    clock_ns: Places
    entry: Places
    """Place in the ring of each flow in the pool."""
    free: NDArray[np.int32]
    """Places of the pool that were used and are free again, a stack."""
    call: Places
    """Of each place in the pool, the last call that took it for ready."""
    meta: NDArray[np.int64]
    """Flows met, hash shift, hash secret, places of the pool ever used, height of the stack, calls; no flow waits
    for less than the last two: an event time and a clock."""


def new_table(flows: int, tiers: int, waiting: int) -> Table:
    """Return arrays for so many flows remembered, tiers and flows that wait."""
    bits = (2 * flows - 1).bit_length()
    # An odd factor that nobody outside knows: flow ids cannot be chosen to fall on one place.
    secret = int.from_bytes(os.urandom(8), "little", signed=True) | 1
    return Table(
        ids=np.zeros(flows, np.uint64),
        held=np.zeros(flows, np.int32),
        said=np.zeros((flows, tiers + 1), np.int16),
        slots=np.zeros(1 << bits, np.uint32),
        pool=np.zeros(waiting, HELD),
        deadline_ns=np.zeros(waiting, np.int64),
        clock_ns=np.zeros(waiting, np.int64),
        entry=np.zeros(waiting, np.int64),
        free=np.zeros(waiting, np.int32),
        call=np.zeros(waiting, np.int64),
        meta=np.array([0, 64 - bits, secret, 0, 0, 0, NEVER, NEVER], np.int64),
    )


@compiled(inline="always")
def _home(table: Table, flow: np.uint64) -> np.uint64:
    mixed = (flow ^ (flow >> np.uint64(29))) * np.uint64(table.meta[SECRET])
    return (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(table.meta[SHIFT])


@compiled(inline="always")
def find(table: Table, flow: np.uint64) -> int:
    """Return the place of a flow, -1 where it is not known."""
    mask = np.uint64(len(table.slots) - 1)
    at = _home(table, flow)
    while True:
        entry = table.slots[at]
        if entry == 0:
            return -1
        if table.ids[entry - 1] == flow:
            return np.int64(entry) - 1  # type: ignore[return-value]
        at = (at + np.uint64(1)) & mask


@compiled
def find_all(table: Table, flows: NDArray[np.uint64], out: Places) -> None:
    """Write the place of each flow, -1 where it is not known."""
    for i in range(len(flows)):
        out[i] = find(table, flows[i])


@compiled
def _remove(table: Table, place: int) -> None:
    """Take a flow out of the index, closing the gap (Knuth, TAOCP 6.4, algorithm R)."""
    slots = table.slots
    mask, one = np.uint64(len(slots) - 1), np.uint64(1)
    at = _home(table, table.ids[place])
    while slots[at] != place + 1:
        at = (at + one) & mask
    gap = at
    while True:
        at = (at + one) & mask
        entry = slots[at]
        if entry == 0:
            break
        home = _home(table, table.ids[entry - 1])
        if ((at - home) & mask) >= ((at - gap) & mask):
            slots[gap] = entry
            gap = at
    slots[gap] = 0


@compiled
def next_place(table: Table) -> int:
    """Return the place that the next flow met will have, which may be another's as yet."""
    return table.meta[HEAD] % len(table.ids)  # type: ignore[no-any-return]


@compiled
def admit(table: Table, flow: np.uint64) -> int:
    """Enter a flow that is not known in place of the oldest, which must not wait; return its place."""
    mask = np.uint64(len(table.slots) - 1)
    place = next_place(table)
    if table.meta[HEAD] >= len(table.ids):
        _remove(table, place)
    table.meta[HEAD] += 1
    table.ids[place] = flow
    table.held[place] = DONE
    table.said[place, :] = NOTHING
    at = _home(table, flow)
    while table.slots[at] != 0:
        at = (at + np.uint64(1)) & mask
    table.slots[at] = place + 1
    return place


@compiled
def admit_all(table: Table, flows: NDArray[np.uint64], out: Places) -> None:
    """Enter flows; ``out``: the place of each, -1 where it is known already."""
    for i in range(len(flows)):
        out[i] = -1 if find(table, flows[i]) >= 0 else admit(table, flows[i])


@compiled(inline="always")
def waiting_of(table: Table) -> int:
    """Return how many flows wait."""
    return table.meta[USED] - table.meta[FREE]  # type: ignore[no-any-return]


@compiled
def hold(table: Table, place: int, row: Any, deadline_ns: int, clock_ns: int) -> bool:
    """Have a flow wait with a row; return False where there is no room. One that waits keeps its deadlines."""
    meta = table.meta
    held = table.held[place]
    if held < 0:
        if meta[FREE] > 0:
            meta[FREE] -= 1
            held = table.free[meta[FREE]]
        elif meta[USED] < len(table.pool):
            held = np.int32(meta[USED])
            meta[USED] += 1
        else:
            return False
        table.held[place] = held
        table.entry[held] = place
        table.deadline_ns[held] = deadline_ns
        table.clock_ns[held] = clock_ns
        meta[SOONEST] = min(meta[SOONEST], deadline_ns)
        meta[SOONEST_CLOCK] = min(meta[SOONEST_CLOCK], clock_ns)
    table.pool[held] = row
    return True


@compiled
def finish(table: Table, place: int, said: int) -> None:
    """Note the final answer of a flow, whose place in the pool becomes free."""
    held = table.held[place]
    if held >= 0:
        table.deadline_ns[held] = table.clock_ns[held] = NEVER
        table.free[table.meta[FREE]] = held
        table.meta[FREE] += 1
    table.held[place] = DONE
    table.said[place, table.said.shape[1] - 1] = said


@compiled
def next_call(table: Table) -> int:
    """Return a number for ``Table.call`` that was never given before."""
    table.meta[CALL] += 1
    return table.meta[CALL]  # type: ignore[no-any-return]


@compiled
def hold_all(table: Table, places: Places, rows: Rows, deadline_ns: Places, clock_ns: int) -> None:
    """Have flows wait, as ``hold`` does with one."""
    for i in range(len(places)):
        hold(table, places[i], rows[i], deadline_ns[i], clock_ns)


@compiled
def finish_all(table: Table, places: Places, said: Places) -> None:
    """Note final answers, as ``finish`` does with one."""
    for i in range(len(places)):
        finish(table, places[i], said[i])


@compiled
def is_due(table: Table, watermarks_ns: Places, now_ns: int) -> bool:
    """Return whether a wait may be over; if not, ``due`` would find none."""
    if table.meta[SOONEST_CLOCK] < now_ns:
        return True
    newest_ns = -NEVER
    for i in range(len(watermarks_ns)):
        newest_ns = max(newest_ns, watermarks_ns[i])
    return table.meta[SOONEST] < newest_ns  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def due(table: Table, watermarks_ns: Places, now_ns: int) -> Places:
    """Return where in the pool those wait whose time is over, by the event time of their probe or the clock."""
    meta = table.meta
    out = np.empty(waiting_of(table), np.int64)
    found = 0
    meta[SOONEST], meta[SOONEST_CLOCK] = NEVER, NEVER
    for i in range(meta[USED]):
        if table.deadline_ns[i] < watermarks_ns[table.pool[i].probe] or table.clock_ns[i] < now_ns:
            out[found] = i
            found += 1
        else:
            meta[SOONEST] = min(meta[SOONEST], table.deadline_ns[i])
            meta[SOONEST_CLOCK] = min(meta[SOONEST_CLOCK], table.clock_ns[i])
    return out[:found]
