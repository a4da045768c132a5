"""Serves a cascade: rows of features in, answers about flows out. Knows neither Kafka nor the time of day.

Rows come in groups, those of all messages at hand, so that a tier's model runs once for all rows that it is to answer.
A flow is met with its row at the first tier's depth. Answered with too little confidence it waits for the row of the
next tier, until its wait is over or it ends: then the best answer so far is final.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.ahead import RowsAhead
from models.flow.cascade import Answer, Cascade
from models.flow.config import CascadeSettings
from models.flow.drift import DriftWatch
from models.flow.errors import CascadeError
from models.flow.octets import REPRESENTATION, rows_of
from models.flow.records import Names
from models.flow.settling import end_flows, give_up, meet, ready, settle, tally
from models.flow.state import Waiting
from models.flow.table import HELD, NOTHING, Places, Rows
from models.flow.waiting import WaitingFlows
from models.flow.work import Arrived, ArrivedPayloads, Indexes, Sources, Work, gather, groups
from schemas.features import FeatureBatch

log = logging.getLogger("flowgauge")

_LONG_AGO = -(1 << 62)
Flags = NDArray[np.bool_]


class Said(NamedTuple):
    """Answers to be published."""

    rows: Rows
    final: bool
    at_once: bool
    """They were made on rows that have just come; others are of flows that waited in vain."""


def _nothing(rows: int) -> tuple[Answer, Flags]:
    """Return no answer to rows."""
    no = np.zeros(rows, np.bool_)
    zero = np.zeros(rows, np.float32)
    return Answer(np.full(rows, NOTHING, np.intp), zero, no, no.copy(), zero.copy()), no.copy()


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
        self._first_is_octets = tiers[0].representation == REPRESENTATION
        self._sources = Sources()
        self._columns: dict[tuple[int, int], NDArray[np.intp] | None] = {}
        self._told: set[tuple[int, str]] = set()
        self._ahead = RowsAhead(self._sources, self.settings.max_ahead_bytes)
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
        return sum(table.state_bytes for table in self.tables.values()) + self._ahead.nbytes

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
            self._give_up_held(table, table.all_waiting(), "change")
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
        self._ahead = RowsAhead(self._sources, self.settings.max_ahead_bytes)

    def take(self, arrived: Sequence[Arrived | ArrivedPayloads]) -> list[Said]:
        """Answer what can be answered on these rows, and give up what has waited long enough."""
        for group in groups(self._as_rows(arrived), self.settings.max_batch):
            work = self._gather(group)
            if len(work.rows):
                self._meet(work)
                self._answer(work)
            while self._later:
                later = self._later.pop()
                self._look_up(later)
                self._answer(later)
        return [*self._taken(), *self.due()]

    def _as_rows(self, arrived: Sequence[Arrived | ArrivedPayloads]) -> Iterator[Arrived]:
        """Yield messages of rows, those made of payloads first: no flow is to end before they are seen."""
        numbers = self._depths.get(REPRESENTATION, ())
        for one in arrived:
            if isinstance(one, ArrivedPayloads):
                yield Arrived(rows_of(one.batch, numbers), one.partition, one.received_ns)
        yield from (one for one in arrived if isinstance(one, Arrived))

    def due(self) -> list[Said]:
        """Return final answers to flows whose wait is over."""
        now_ns = self._clock()
        for number, table in self.tables.items():
            self._give_up_held(table, table.due(self._watermarks[number], now_ns), "timeout")
        self._ahead.forget(now_ns)
        ahead = self._ahead
        for name, count in (("rows_without_flow", ahead.forgotten), ("rows_dropped_ahead", ahead.dropped)):
            if count:
                self.counts[name] += count
        ahead.forgotten = ahead.dropped = 0
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
        # Payloads come straight from the probe: by their time, flows would not be waited for that are still on the way.
        if batch.rows and (batch.representation != REPRESENTATION or self._first_is_octets):
            known[probe] = max(int(known[probe]), int(batch.columns["end_ns"].max()))

    def _answer(self, work: Work) -> None:
        """Let each tier answer its rows, then end what has ended."""
        carried: dict[int, Indexes] = dict(work.fresh)
        tiers = self.cascade.card.tiers
        for number, tier in enumerate(tiers):
            fits = self._sources.are_of(tier.representation)
            ready = []
            for partition, begin, end in work.parts:
                found = carried.pop(partition, None)
                if number > 0:
                    waited = self._ready(work, number, partition, (begin, end), fits)
                    found = waited if found is None else np.concatenate((found, waited))
                if found is not None and len(found):
                    ready.append((partition, found))
            if ready:
                self._score(work, number, ready, carried)
        for partition, begin, end in work.parts:
            out = np.empty(end - begin, HELD)
            count = end_flows(self.tables[partition].arrays, work.rows, begin, end, work.places, out)
            self._give_up(out[:count], "end")

    def _meet(self, work: Work) -> None:
        """Remember the flows that are met with these rows, and look up those of all."""
        first = self.cascade.card.tiers[0]
        fits = self._sources.are_of(first.representation)
        for partition, begin, end in work.parts:
            fresh, out = np.empty(end - begin, np.int64), np.empty(end - begin, HELD)
            met, repeated, forgotten = meet(
                self.tables[partition].arrays, work.rows, begin, end, work.source, fits, first.depth,
                work.places, fresh, out,
            )  # fmt: skip
            work.fresh[partition] = fresh[:met]
            self.counts["flows"] += met
            self.counts["rows_repeated"] += repeated
            self._give_up(out[:forgotten], "forgotten")

    def _look_up(self, work: Work) -> None:
        for partition, begin, end in work.parts:
            work.places[begin:end] = self.tables[partition].find(work.rows["flow_id"][begin:end])

    def _ready(
        self, work: Work, number: int, partition: int, bounds: tuple[int, int], fits: Flags
    ) -> Indexes:
        """Return the rows of a partition that flows wait for at a tier."""
        begin, end = bounds
        out, ahead = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64)
        found, early = ready(
            self.tables[partition].arrays, work.rows, begin, end, work.source, fits,
            self.cascade.card.tiers[number].depth, number, work.places, out, ahead,
        )  # fmt: skip
        if early and len(self._depths) > 1:
            self._ahead.keep(work, partition, ahead[:early], self._clock() + self._clock_wait_ns)
        return out[:found]

    def _score(
        self, work: Work, tier: int, asked: Sequence[tuple[int, Indexes]], carried: dict[int, Indexes]
    ) -> None:
        """Have a tier answer rows, by partition, whose flows are known, and see what becomes of these."""
        tiers = self.cascade.card.tiers
        where = asked[0][1] if len(asked) == 1 else np.concatenate([rows for _, rows in asked])
        answer, answered = self._ask(work, tier, where)
        is_last = tier + 1 == len(tiers)
        following = None if is_last else tiers[tier + 1]
        follows = following is not None and (following.representation, following.depth) == (
            tiers[tier].representation,
            tiers[tier].depth,
        )
        clock_ns = self._clock() + self._clock_wait_ns
        begin = 0
        for partition, rows in asked:
            end = begin + len(rows)
            out, on = np.empty(len(rows), HELD), np.empty(len(rows), np.int64)
            final, going, told, no_room = settle(
                self.tables[partition].arrays, work.rows, where, begin, end, work.places, *answer, answered,
                tier, is_last, follows, self._wait_ns, clock_ns, out, on,
            )  # fmt: skip
            begin = end
            self.counts[f"escalated_{tiers[tier].name}"] += going + no_room
            self.counts["answered_for_lack_of_room"] += no_room
            self._finished(out[:final], at_once=True)
            if follows:
                carried[partition] = on[:going]
                continue
            if told and self.settings.provisional:
                self._out.append(Said(out[len(out) - told :], False, True))
            if going and self._ahead.rows:
                self._take_ahead(work.rows["flow_id"][on[:going]], tier + 1)

    def _take_ahead(self, flows: NDArray[np.uint64], tier: int) -> None:
        """Have the rows answered later in this call that flows now wait for and that came before they did."""
        following = self.cascade.card.tiers[tier]
        later = self._ahead.take(flows.tolist(), following.representation, following.depth)
        self._later += [later] if later is not None else []

    def _ask(self, work: Work, tier: int, where: Indexes) -> tuple[Answer, Flags]:
        """Return a tier's answer to rows, and to which of them there is one."""
        size = len(where)
        if len(work.features) == 1:
            return self._ask_of(work, tier, where, next(iter(work.features))) or _nothing(size)
        (out, answered), sources = _nothing(size), work.source[where]
        for source in np.unique(sources).tolist():
            part = np.flatnonzero(sources == source)
            found = self._ask_of(work, tier, where[part], source)
            if found is None:
                continue
            parts: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(out, found[0], strict=True)
            for whole, piece in parts:
                whole[part] = piece
            answered[part] = True
        return out, answered

    def _ask_of(self, work: Work, tier: int, where: Indexes, source: int) -> tuple[Answer, Flags] | None:
        """Return the answer to rows of one source; None where the tier has none."""
        name = self.cascade.card.tiers[tier].name
        try:
            columns = self._places(tier, source)
            matrix = work.matrix(where, source)
            matrix = matrix if columns is None else matrix.take(columns, axis=1)
            found = self.cascade.answer(tier, matrix)
        except Exception as error:  # what a tier cannot answer, the next one or the one before does
            self.counts[f"failed_{name}"] += len(where)
            self._tell_once(tier, error)
            return None
        self.counts[f"answered_{name}"] += len(where)
        self.drift.on_answers(tier, found, matrix)
        if not self.settings.unknown:
            found = found._replace(unknown=np.zeros(len(where), np.bool_))
        return found, np.ones(len(where), np.bool_)

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

    def _finished(self, rows: Rows, *, at_once: bool) -> None:
        """Take note of final answers."""
        if not len(rows):
            return
        unknown, nothing = tally(rows)
        self.counts["final"] += len(rows)
        self.counts["unknown"] += unknown
        self.counts["without_answer"] += nothing
        if self._ahead.rows:
            self._ahead.answered(rows["flow_id"].tolist())
        self._out.append(Said(rows, True, at_once))

    def _give_up(self, rows: Rows, why: str) -> None:
        """Take note of final answers to flows that waited in vain."""
        if len(rows):
            self.counts[f"answered_at_{why}"] += len(rows)
            self._finished(rows, at_once=False)

    def _give_up_held(self, table: WaitingFlows, held: Places, why: str) -> None:
        """Make the best answer so far of flows that wait final."""
        if len(held):
            out = np.empty(len(held), HELD)
            give_up(table.arrays, held, out)
            self._give_up(out, why)
