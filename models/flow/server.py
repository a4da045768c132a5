"""Serves a cascade: rows of features in, answers about flows out. Knows neither Kafka nor the time of day.

Rows come in groups, those of all messages at hand, so that a tier's model runs once for all rows that it is to answer.
A flow is met with its row at the first tier's depth. Answered with too little confidence it waits for the row of the
next tier, until its wait is over or it ends: then the best answer so far is final.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.ahead import RowsAhead
from models.flow.cascade import Answer, Cascade
from models.flow.config import CascadeSettings
from models.flow.drift import DriftWatch
from models.flow.errors import CascadeError
from models.flow.records import Names
from models.flow.state import Waiting
from models.flow.waiting import NOTHING, UNKNOWN, Places, Rows, WaitingFlows
from models.flow.work import Arrived, Indexes, Sources, Work, gather, groups, places_by_partition
from schemas.features import FeatureBatch

log = logging.getLogger("flowgauge")

_LONG_AGO = -(1 << 62)


class Said(NamedTuple):
    """Answers to be published."""

    rows: Rows
    final: bool
    at_once: bool
    """They were made on rows that have just come; others are of flows that waited in vain."""


class CascadeServer:
    """A cascade with the flows it has to do with, by partition. One thread at a time."""

    def __init__(
        self,
        settings: CascadeSettings,
        cascade: Cascade,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Serve ``cascade``; ``clock`` gives ns of a clock that never goes back."""
        self.settings, self._clock = settings, clock
        self.counts: Counter[str] = Counter()
        self.probes, self.representations = Names(), Names()
        self.tables: dict[int, WaitingFlows] = {}
        self._watermarks: dict[int, Places] = {}
        self._out: list[Said] = []
        self._use(cascade)

    def _use(self, cascade: Cascade) -> None:
        self.cascade = cascade
        tiers = cascade.card.tiers
        self._depths: dict[str, tuple[int, ...]] = {}
        for tier in tiers:
            before = self._depths.get(tier.representation, ())
            self._depths[tier.representation] = tuple(sorted({*before, tier.depth}))
        self._sources = Sources()
        self._columns: dict[tuple[int, int], NDArray[np.intp] | None] = {}
        self._told: set[tuple[int, str]] = set()
        self._ahead = RowsAhead(self._sources)
        self._later: list[Work] = []
        settings = self.settings
        self.drift = DriftWatch(cascade.card, settings.drift_rows, settings.drift_limit, self.counts)
        wait_s = self.settings.wait_s or cascade.card.wait_s
        self._wait_ns = round(wait_s * 1e9)
        self._clock_wait_ns = round((wait_s + self.settings.silence_s) * 1e9)

    @property
    def waiting(self) -> int:
        """Return how many flows wait."""
        return sum(table.waiting for table in self.tables.values())

    @property
    def state_bytes(self) -> int:
        """Return the memory that flows take."""
        return sum(table.state_bytes for table in self.tables.values())

    def table(self, partition: int) -> WaitingFlows:
        """Return the flows of a partition."""
        table = self.tables.get(partition)
        if table is None:
            settings = self.settings
            table = self.tables[partition] = WaitingFlows(
                len(self.cascade.card.tiers),
                settings.max_waiting_flows,
                max(settings.max_flows, 4 * settings.max_batch),
            )
            self._watermarks[partition] = np.empty(0, np.int64)
        return table

    def lacks(self, cascade: Cascade) -> str:
        """Return why the rows that come cannot serve another cascade; empty if they can, as far as one knows."""
        try:
            for tier in cascade.tiers:
                for source in self._sources.known:
                    if tier is not None and tier.card.representation == source.representation:
                        tier.places(source.names)
        except CascadeError as error:
            return str(error)
        return ""

    def change(self, cascade: Cascade) -> list[Said]:
        """Go over to another cascade; return the final answers to the flows that wait, by the one before."""
        for table in self.tables.values():
            self._give_up(table, table.all_waiting(), "change")
        out = self._taken()
        self.tables.clear()
        self._watermarks.clear()
        self._use(cascade)
        return out

    def waiting_flows(self, partition: int, offsets: Mapping[str, int]) -> Waiting:
        """Return the flows of a partition that wait, to be kept with the offsets up to which they know."""
        table = self.table(partition)
        held = table.all_waiting()
        return Waiting(
            self.cascade.title,
            self.cascade.classes,
            tuple(self.probes.texts),
            tuple(self.representations.texts),
            offsets,
            table.pool[held],
            table.deadlines_ns(held),
        )

    def restore(self, partition: int, waiting: Waiting) -> list[Said]:
        """Go on with flows that waited; return those that cannot wait on, whose answers so far are final.

        These were answered by another cascade than this one, or there is no room.
        """
        rows, table = waiting.rows, self.table(partition)
        for name, names, texts in (
            ("probe", self.probes, waiting.probes),
            ("representation", self.representations, waiting.representations),
        ):
            numbers = np.array([names.number(text) for text in texts], np.uint16)
            rows[name] = numbers[rows[name]] if len(rows) else rows[name]
        self._note_probes(partition)
        places = table.admit(rows["flow_id"])
        fits = np.flatnonzero(places >= 0)
        stays = fits[: table.room] if waiting.title == self.cascade.title else fits[:0]
        clock_ns = self._clock() + self._clock_wait_ns
        if len(stays):
            table.hold(places[stays], rows[stays], waiting.deadlines_ns[stays], clock_ns)
        goes = np.setdiff1d(np.arange(len(rows)), stays)
        self.counts["flows_restored"] += len(stays)
        self.counts["answered_at_restart"] += len(goes)
        return [Said(rows[goes], True, False)] if len(goes) else []

    def let_go(self) -> None:
        """Forget all flows: their partitions are another's."""
        self.tables.clear()
        self._watermarks.clear()
        self._ahead = RowsAhead(self._sources)

    def take(self, arrived: Sequence[Arrived]) -> list[Said]:
        """Answer what can be answered on these rows, and give up what has waited long enough."""
        for group in groups(arrived, self.settings.max_batch):
            work = self._gather(group)
            if len(work.rows):
                self._meet(work)
                self._answer(work)
            while self._later:
                later = self._later.pop()
                self._look_up(later)
                self._answer(later)
        return [*self._taken(), *self.due()]

    def due(self) -> list[Said]:
        """Return final answers to flows whose wait is over."""
        now_ns = self._clock()
        for number, table in self.tables.items():
            self._give_up(table, table.due(self._watermarks[number], now_ns), "timeout")
        self._ahead.forget(now_ns)
        if self._ahead.forgotten:
            self.counts["rows_without_flow"] += self._ahead.forgotten
            self._ahead.forgotten = 0
        return self._taken()

    def _taken(self) -> list[Said]:
        out, self._out = self._out, []
        return out

    def _gather(self, group: Sequence[Arrived]) -> Work:
        for batch, partition, _ in group:
            self.table(partition)
            self._note_time(partition, self.probes.number(batch.probe), batch)
            if batch.representation not in self._depths:
                self.counts["rows_of_other_representations"] += batch.rows
        return gather(group, self._depths, self._sources, self.probes, self.representations)

    def _note_probes(self, partition: int) -> Places:
        """Return the watermarks of a partition, with a place for each probe known."""
        known, probes = self._watermarks[partition], len(self.probes.texts)
        if len(known) < probes:
            more = np.full(probes - len(known), _LONG_AGO, np.int64)
            known = self._watermarks[partition] = np.concatenate((known, more))
        return known

    def _note_time(self, partition: int, probe: int, batch: FeatureBatch) -> None:
        known = self._note_probes(partition)
        if batch.rows:
            known[probe] = max(int(known[probe]), int(batch.columns["end_ns"].max()))

    def _answer(self, work: Work) -> None:
        """Let each tier answer its rows, then end what has ended."""
        rows = work.rows
        ended = rows["flow_end_reason"] != 0
        carried: dict[int, Indexes] = {}
        for number, tier in enumerate(self.cascade.card.tiers):
            if number == 0:
                ready = work.fresh
            else:
                fits = self._sources.are_of(tier.representation, work.source) & (rows["depth"] == tier.depth)
                ready = self._ready(work, np.flatnonzero(fits & ~ended), number)
            if number in carried:
                ready = np.concatenate((carried[number], ready))
            if len(ready):
                self._score(work, number, ready, carried)
        for partition, where in work.by_partition(np.flatnonzero(ended & (work.places >= 0))):
            table = self.tables[partition]
            held = table.held(work.places[where])
            waits = held >= 0
            table.pool["flow_end_reason"][held[waits]] = rows["flow_end_reason"][where[waits]]
            self._give_up(table, np.unique(held[waits]).astype(np.int64), "end")

    def _meet(self, work: Work) -> None:
        """Remember the flows that are met with these rows: those of the first tier whose flow was not known.

        A flow that has ended before it came as far as the first tier's depth is met with the row of its end.
        """
        first, rows = self.cascade.card.tiers[0], work.rows
        ended = rows["flow_end_reason"] != 0
        asked = np.where(ended, rows["depth"] < first.depth, rows["depth"] == first.depth)
        own = np.flatnonzero(asked & self._sources.are_of(first.representation, work.source))
        fresh = np.zeros(len(rows), np.bool_)
        for partition, where in work.by_partition(own):
            table = self.tables[partition]
            self._give_up(table, table.overwritten(len(where)), "forgotten")
            fresh[where[table.admit(rows["flow_id"][where]) >= 0]] = True
        self._look_up(work)
        work.fresh = np.flatnonzero(fresh)
        self.counts["flows"] += len(work.fresh)
        self.counts["rows_repeated"] += len(own) - len(work.fresh)

    def _look_up(self, work: Work) -> None:
        work.places = np.full(len(work.rows), -1, np.int64)
        for partition, where in work.by_partition(np.arange(len(work.rows))):
            work.places[where] = self.tables[partition].find(work.rows["flow_id"][where])

    def _ready(self, work: Work, own: Indexes, tier: int) -> Indexes:
        """Return the rows of a tier whose flows wait for it."""
        ready = []
        for partition, where in work.by_partition(own):
            table, places = self.tables[partition], work.places[where]
            known = places >= 0
            held = np.full(len(where), NOTHING, np.int64)
            held[known] = table.held(places[known])
            waits = held >= 0
            next_tier = np.full(len(where), -1, np.int64)
            next_tier[waits] = table.pool["next_tier"][held[waits]]
            ready.append(where[next_tier == tier])
            if len(self._depths) > 1:
                ahead = where[~known | (waits & (next_tier < tier))]
                self._ahead.keep(work, ahead, self._clock() + self._clock_wait_ns)
        out = np.concatenate(ready) if ready else np.empty(0, np.intp)
        # A row that came twice at one time is answered once.
        return out[np.unique(work.rows["flow_id"][out], return_index=True)[1]]

    def _score(self, work: Work, tier: int, where: Indexes, carried: dict[int, Indexes]) -> None:
        """Have a tier answer rows whose flows are known, and see what becomes of these."""
        tiers = self.cascade.card.tiers
        before = self._best_so_far(work, where)
        answer, answered = self._ask(work, tier, where)
        rows = work.rows[where]
        rows["class"], rows["tier"] = answer.classes, tier
        rows["unknown"] = answer.unknown if self.settings.unknown else False
        rows["confidence"], rows["ood"] = answer.confidence, answer.ood
        rows[~answered] = before[~answered]
        work.rows[where] = rows
        is_last = tier + 1 == len(tiers)
        ended = rows["flow_end_reason"] != 0
        goes_on = (answer.escalate | ~answered) & ~ended if not is_last else np.zeros(len(where), np.bool_)
        following = None if is_last else tiers[tier + 1]
        at_once = following is not None and (following.representation, following.depth) == (
            tiers[tier].representation,
            tiers[tier].depth,
        )
        self.counts[f"escalated_{tiers[tier].name}"] += int(goes_on.sum())
        for partition, part in places_by_partition(work.partition[where]):
            table, places = self.tables[partition], work.places[where[part]]
            said = answered[part]
            table.note(places[said], tier, rows["class"][part[said]])
            on = part[goes_on[part]]
            if at_once:
                carried[tier + 1] = np.concatenate((carried.get(tier + 1, np.empty(0, np.intp)), where[on]))
            else:
                on = self._hold(work, table, where, on, rows, tier)
            done = np.setdiff1d(part, on, assume_unique=True)
            self._finish(table, work.places[where[done]], rows[done], at_once=True)

    def _best_so_far(self, work: Work, where: Indexes) -> Rows:
        """Return the rows with what was answered before, where their flows wait with an answer."""
        best = work.rows[where]
        for partition, part in places_by_partition(work.partition[where]):
            table = self.tables[partition]
            held = table.held(work.places[where[part]])
            waits = held >= 0
            best[part[waits]] = table.pool[held[waits]]
        return best

    def _ask(self, work: Work, tier: int, where: Indexes) -> tuple[Answer, NDArray[np.bool_]]:
        """Return a tier's answer to rows, and to which of them there is one."""
        size = len(where)
        out = Answer(
            np.full(size, NOTHING, np.intp),
            np.zeros(size, np.float32),
            np.zeros(size, np.bool_),
            np.zeros(size, np.bool_),
            np.zeros(size, np.float32),
        )
        answered = np.zeros(size, np.bool_)
        name = self.cascade.card.tiers[tier].name
        for source in np.unique(work.source[where]).tolist():
            part = np.flatnonzero(work.source[where] == source)
            try:
                columns = self._places(tier, source)
                matrix = work.matrix(where[part], source)
                matrix = matrix if columns is None else matrix[:, columns]
                found = self.cascade.answer(tier, matrix)
            except Exception as error:  # what a tier cannot answer, the next one or the one before does
                self.counts[f"failed_{name}"] += len(part)
                self._tell_once(tier, error)
                continue
            parts: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(out, found, strict=True)
            for whole, piece in parts:
                whole[part] = piece
            answered[part] = True
            self.drift.on_answers(tier, found, matrix)
        self.counts[f"answered_{name}"] += int(answered.sum())
        return out, answered

    def _places(self, tier: int, source: int) -> NDArray[np.intp] | None:
        """Return where a tier's columns stand in the rows of a source; None: they are all of them, in order."""
        if (tier, source) not in self._columns:
            model = self.cascade.tiers[tier]
            if model is None:
                raise CascadeError(self.cascade.problems[tier])
            names = self._sources.known[source].names
            same = names == model.columns
            self._columns[tier, source] = None if same else model.places(names)
        return self._columns[tier, source]

    def _tell_once(self, tier: int, error: Exception) -> None:
        kind = (tier, type(error).__name__)
        if kind in self._told:
            return
        self._told.add(kind)
        name = self.cascade.card.tiers[tier].name
        log.error(
            "cascade %s: tier %s does not answer, other tiers do in its place: %s",
            self.cascade.title,
            name,
            error if isinstance(error, CascadeError) else f"{type(error).__name__}: {error}",
        )

    def _hold(
        self, work: Work, table: WaitingFlows, where: Indexes, on: Indexes, rows: Rows, tier: int
    ) -> Indexes:
        """Have flows wait for the tier behind ``tier``; return those of them for which there is room."""
        places = work.places[where[on]]
        new = table.held(places) < 0
        most = table.room
        if int(new.sum()) > most:
            fits = ~new | (np.cumsum(new) <= most)
            self.counts["answered_for_lack_of_room"] += int((~fits).sum())
            on, places = on[fits], places[fits]
        if not len(on):
            return on
        held = rows[on]
        held["next_tier"] = tier + 1
        rows["next_tier"][on] = tier + 1
        deadline_ns = held["start_ns"] + self._wait_ns
        table.hold(places, held, deadline_ns, self._clock() + self._clock_wait_ns)
        if self.settings.provisional:
            self._out.append(Said(held[held["class"] != NOTHING], False, True))
        if self._ahead.rows:
            following = self.cascade.card.tiers[tier + 1]
            later = self._ahead.take(held["flow_id"].tolist(), following.representation, following.depth)
            self._later += [later] if later is not None else []
        return on

    def _finish(self, table: WaitingFlows, places: Places, rows: Rows, *, at_once: bool) -> None:
        if not len(rows):
            return
        table.finish(places, np.where(rows["unknown"], UNKNOWN, rows["class"]))
        self.counts["final"] += len(rows)
        self.counts["unknown"] += int(rows["unknown"].sum())
        self.counts["without_answer"] += int((rows["class"] == NOTHING).sum())
        self._out.append(Said(rows, True, at_once))

    def _give_up(self, table: WaitingFlows, held: Places, why: str) -> None:
        """Make the best answer so far of flows that wait final."""
        if not len(held):
            return
        self.counts[f"answered_at_{why}"] += len(held)
        self._finish(table, table.entries(held), table.pool[held], at_once=False)
