"""From where a worker goes on: flows that wait are kept on ``flows.state``, with the offsets up to which they know."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.flow.server import CascadeServer
from models.flow.state import LAYOUT, Waiting, load, save
from producers.bus import Sink, bring
from producers.config import BusSettings, topic_name
from schemas.errors import CodecError
from schemas.topics import LABELS
from streams.handover import SLOTS, Position, State, StateReader, write_state

log = logging.getLogger("flowgauge")


class Copy(NamedTuple):
    """A copy of a partition's flows that wait, on its way to the bus."""

    number: int
    slot: int
    waiting: Waiting


class Resumer:
    """Offsets by topic and partition, and the copies of the flows that wait.

    A copy is written before each commit, so it is never older than what is committed. Messages that it knows of come
    again after a crash, and are passed over.
    """

    def __init__(
        self,
        group: str,
        bus: BusSettings,
        states: Sink,
        topics: Sequence[str],
        name: str = "",
    ) -> None:
        """Keep copies of what a consumer group has read.

        Args:
            group: the group, whose committed offsets are gone by.
            bus: the bus.
            states: takes the copies, in the thread that ``write`` is called in.
            topics: plain names; a partition is held where the group has it of the first one.
            name: whose copies they are; by default the group's.
        """
        self._group, self._bus, self._states = group, bus, states
        self._name = name or group
        self.counts: Counter[str] = Counter()
        self._topics = [topic for topic in topics if topic != LABELS]
        self._next: dict[tuple[str, int], int] = {}
        self._saved: dict[int, dict[str, int]] = {}
        self._slots: dict[int, int] = {}
        self.written_bytes = 0
        """Size of all copies written."""

    def is_new(self, topic: str, partition: int, offset: int) -> bool:
        """Return whether a message has not been seen, and note that it has."""
        if offset < self._next.get((topic, partition), 0):
            return False
        self._next[topic, partition] = offset + 1
        return True

    def copies(self, server: CascadeServer) -> list[Copy]:
        """Return copies of the flows that wait, of each partition that has seen messages since its last copy."""
        numbers = {number for topic, number in self._next if topic != LABELS}
        return [self._copy(n, server) for n in sorted(numbers) if self._saved.get(n) != self._offsets(n)]

    def _offsets(self, number: int) -> dict[str, int]:
        return {topic: self._next[topic, number] for topic in self._topics if (topic, number) in self._next}

    def _copy(self, number: int, server: CascadeServer) -> Copy:
        offsets = self._offsets(number)
        slot = self._slots.get(number, 0)
        self._slots[number] = (slot + 1) % SLOTS
        self._saved[number] = offsets
        return Copy(number, slot, server.waiting_flows(number, offsets))

    def write(self, copies: Sequence[Copy]) -> None:
        """Bring copies to the bus; raises BusError."""
        for copy in copies:
            body = save(copy.waiting)
            state = State(copy.waiting.offsets.get(self._topics[0], 0), copy.slot, LAYOUT, body)
            write_state(self._states, self._bus, self._name, copy.number, state)
            self.written_bytes += len(body)
        if copies:
            bring(self._states, self._bus)

    def forget_saved(self) -> None:
        """Have every partition be saved anew."""
        self._saved.clear()

    def let_go(self) -> None:
        """Forget offsets and copies."""
        for held in (self._next, self._saved, self._slots):
            held.clear()

    def resume(self, partitions: Mapping[str, set[int]]) -> dict[int, Waiting]:
        """Return the flows that wait of each partition assigned, as far as there is a copy; raises BusError."""
        self.let_go()
        mine = partitions.get(self._topics[0], set())
        found: dict[int, Waiting] = {}
        with StateReader(self._bus, self._name) as reader:
            topic = topic_name(self._bus, self._topics[0])
            for number, position in reader.positions(topic, mine, self._group).items():
                waiting = self._usable(topic, number, position, reader.read(number, position.committed))
                if waiting is not None:
                    found[number] = waiting
        return found

    def _usable(self, topic: str, number: int, position: Position, state: State | None) -> Waiting | None:
        if state is None and position.committed <= 0:
            return None
        try:
            if state is None or state.offset < position.committed:
                raise CodecError(f"no copy of the flows that wait up to offset {position.committed}")
            if state.layout != LAYOUT:
                raise CodecError("the flows that wait were kept by another version of Flowgauge")
            if state.offset > position.end:
                raise CodecError("the flows that wait are of a topic that is gone")
            waiting = load(state.body)
        except CodecError as error:
            self.counts["states_unusable"] += 1
            log.error("%s [%d]: %s; they get no further answer", topic, number, error)
            return None
        self._slots[number] = (state.slot + 1) % SLOTS
        for name, offset in waiting.offsets.items():
            self._next[name, number] = offset
        self._saved[number] = self._offsets(number)
        self.counts["states_restored"] += 1
        return waiting
