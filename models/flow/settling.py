"""What becomes of flows as rows about them come and tiers answer: compiled, for all rows of a message at one stroke.

Rows are ``HELD``; those of one partition stand together, from ``begin`` to before ``end``. ``source`` numbers what each
row's features are columns of, and ``fits`` says of each such number whether the tier in question takes them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.flow.table import (
    HEAD,
    HELD,
    NOTHING,
    UNKNOWN,
    Places,
    Rows,
    Table,
    admit,
    find,
    finish,
    hold,
    next_call,
    next_place,
)
from models.flow.waiting import WaitingFlows
from schemas.compiled import compiled

Flags = NDArray[np.bool_]


@compiled(inline="always")
def _class_of(row: Rows) -> int:
    return UNKNOWN if row["unknown"] else int(row["class"])


@compiled(inline="always")
def _give_up(table: Table, held: int, out: Rows, at: int) -> None:
    """Make the best answer so far of a flow that waits final, and write it out."""
    out[at] = table.pool[held]
    finish(table, table.entry[held], _class_of(out[at]))


@compiled(inline="always")
def _waits_in_the_way(table: Table) -> bool:
    """Return whether the flow waits in whose place the next one is entered."""
    return table.meta[HEAD] >= len(table.ids) and table.held[next_place(table)] >= 0  # type: ignore[no-any-return]


@compiled
def meet(
    table: Table,
    rows: Rows,
    begin: int,
    end: int,
    source: Places,
    fits: Flags,
    first_depth: int,
    places: Places,
    fresh: Places,
    out: Rows,
) -> tuple[int, int, int]:
    """Remember the flows that are met with these rows: those of the first tier whose flow was not known.

    A flow that has ended before it came as far as the first tier's depth is met with the row of its end.

    Args:
        table: of the partition.
        rows: of all partitions.
        begin: first of this one.
        end: behind the last.
        source: of each row.
        fits: of each source, whether it is the first tier's.
        first_depth: of the first tier.
        places: written: place of each row's flow, -1 where it is not known.
        fresh: written: the rows with which flows are met.
        out: written: final answers to flows that waited and must make room.

    Returns:
        Flows met, rows that were of flows met before, final answers.
    """
    met, repeated, forgotten = 0, 0, 0
    for i in range(begin, end):
        depth, ended = rows[i].depth, rows[i].flow_end_reason != 0
        if not fits[source[i]] or (depth >= first_depth if ended else depth != first_depth):
            continue
        if find(table, rows[i].flow_id) >= 0:
            repeated += 1
            continue
        if _waits_in_the_way(table):
            _give_up(table, table.held[next_place(table)], out, forgotten)
            forgotten += 1
        admit(table, rows[i].flow_id)
        fresh[met] = i
        met += 1
    for i in range(begin, end):
        places[i] = find(table, rows[i].flow_id)
    return met, repeated, forgotten


@compiled
def ready(
    table: Table,
    rows: Rows,
    begin: int,
    end: int,
    source: Places,
    fits: Flags,
    depth: int,
    tier: int,
    places: Places,
    out: Places,
    ahead: Places,
) -> tuple[int, int]:
    """Find the rows that flows wait for at a tier; of two of one flow the first.

    Args:
        table: of the partition.
        rows: of all partitions.
        begin: first of this one.
        end: behind the last.
        source: of each row.
        fits: of each source, whether it is the tier's.
        depth: of the tier.
        tier: its number.
        places: of each row's flow, as ``meet`` wrote them.
        out: written: those rows.
        ahead: written: the rows of the tier that their flows do not wait for yet.

    Returns:
        How many of each.
    """
    found, early = 0, 0
    call = next_call(table)
    for i in range(begin, end):
        if rows[i].depth != depth or rows[i].flow_end_reason != 0 or not fits[source[i]]:
            continue
        held = table.held[places[i]] if places[i] >= 0 else -1
        if places[i] < 0 or (held >= 0 and table.pool[held].next_tier < tier):
            ahead[early] = i
            early += 1
        elif held >= 0 and table.pool[held].next_tier == tier and table.call[held] != call:
            table.call[held] = call
            out[found] = i
            found += 1
    return found, early


@compiled
def settle(
    table: Table,
    rows: Rows,
    where: Places,
    begin: int,
    end: int,
    places: Places,
    classes: NDArray[np.intp],
    confidence: NDArray[np.float32],
    escalate: Flags,
    unknown: Flags,
    ood: NDArray[np.float32],
    answered: Flags,
    tier: int,
    is_last: bool,
    follows: bool,
    wait_ns: int,
    clock_ns: int,
    out: Rows,
    on: Places,
) -> tuple[int, int, int, int]:
    """See what becomes of flows that a tier was asked about: they have their final answer, or go on.

    Args:
        table: of the partition.
        rows: of all partitions; the answers are written to them.
        where: the rows that were asked about, (asked,).
        begin: first of those of this partition.
        end: behind the last.
        places: of each row's flow.
        classes: what the tier says, as ``models.flow.cascade.Answer`` has it; like the following, (asked,).
        confidence: of that.
        escalate: whether it should go on.
        unknown: whether it is unlike what was learned.
        ood: how much.
        answered: whether there is an answer.
        tier: its number.
        is_last: no tier follows.
        follows: the next tier answers the very same rows.
        wait_ns: how long flows wait, in event time.
        clock_ns: until when they wait by the clock.
        out: written: rows with final answers from its beginning, those of flows that go on from its end.
        on: written: rows that go on, to the tier that follows or to wait.

    Returns:
        Final answers; rows that go on; those of them that are in ``out``; flows that should have waited, but had no
        room.
    """
    final, going, told, no_room = 0, 0, 0, 0
    for k in range(begin, end):
        i = where[k]
        row, place = rows[i], places[i]
        if answered[k]:
            row["class"], row["tier"], row["unknown"] = classes[k], tier, unknown[k]
            row["confidence"], row["ood"] = confidence[k], ood[k]
            table.said[place, tier] = classes[k]
        elif table.held[place] >= 0:
            rows[i] = table.pool[table.held[place]]
        if not is_last and (escalate[k] or not answered[k]) and row.flow_end_reason == 0:
            if follows:
                on[going] = i
                going += 1
                continue
            row["next_tier"] = tier + 1
            if hold(table, place, row, row.start_ns + wait_ns, clock_ns):
                on[going] = i
                going += 1
                if row["class"] != NOTHING:
                    told += 1
                    out[len(out) - told] = row
                continue
            no_room += 1
        finish(table, place, _class_of(row))
        out[final] = row
        final += 1
    return final, going, told, no_room


@compiled
def end_flows(table: Table, rows: Rows, begin: int, end: int, places: Places, out: Rows) -> int:
    """Give up the flows that wait and of whose end these rows tell; return how many, written to ``out``."""
    given_up = 0
    for i in range(begin, end):
        if rows[i].flow_end_reason == 0 or places[i] < 0 or table.held[places[i]] < 0:
            continue
        held = table.held[places[i]]
        table.pool[held].flow_end_reason = rows[i].flow_end_reason
        _give_up(table, held, out, given_up)
        given_up += 1
    return given_up


@compiled
def give_up(table: Table, held: Places, out: Rows) -> None:
    """Make the best answers so far of flows that wait at these places of the pool final, written to ``out``."""
    for i in range(len(held)):
        _give_up(table, held[i], out, i)


@compiled
def tally(rows: Rows) -> tuple[int, int]:
    """Return how many answers are "unknown", and to how many flows there is none."""
    unknown, nothing = 0, 0
    for i in range(len(rows)):
        unknown += rows[i]["unknown"]
        nothing += rows[i]["class"] == NOTHING
    return unknown, nothing


def warm_up(tiers: int) -> None:
    """Have all that is compiled here compiled, or loaded, for a cascade of so many tiers before a row waits for it."""
    flows = WaitingFlows(tiers, 4, 4)
    arrays, rows = flows.arrays, np.zeros(1, HELD)
    places, where, on, source = (np.zeros(1, np.int64) for _ in range(4))
    yes, some, out = np.ones(1, np.bool_), np.zeros(1, np.float32), np.zeros(1, HELD)
    rows["flow_id"] = rows["depth"] = 1
    meet(arrays, rows, 0, 1, source, yes, 1, places, where, out)
    settle(
        arrays, rows, where, 0, 1, places, np.zeros(1, np.intp), some, yes, yes, some, yes,
        0, False, False, 1, 1, out, on,
    )  # fmt: skip
    ready(arrays, rows, 0, 1, source, yes, 1, 1, places, where, on)
    end_flows(arrays, rows, 0, 1, places, out)
    give_up(arrays, flows.due(np.full(1, 2), 0), out)
    flows.find(rows["flow_id"])
    tally(out)
