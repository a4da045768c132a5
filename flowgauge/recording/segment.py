"""What came of each topic-partition and is not on disk yet, and when it has to go there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowgauge.recording.config import RecordSettings
from flowgauge.recording.layout import Key
from flowgauge.recording.rows import Message, Refuse, Shape
from flowgauge.recording.store import Store
from producers.telemetry import StageMeter

MAX_FILES = 256
"""Files of a segment: beyond it the segment is written early, so that odd dates and probes cost no memory."""
_OBJECT_BYTES = 2048
"""What a record batch weighs beside its columns."""


@dataclass
class Segment:
    """The rows of one topic-partition since the last commit."""

    topic: str
    partition: int
    shape: Shape
    first_offset: int
    next_offset: int
    rows: dict[Key, list[Any]] = field(default_factory=dict)
    row_count: int = 0
    octets: int = 0
    since_s: float = 0.0

    def begin_anew(self, offset: int) -> None:
        """Forget the rows: the next message is ``offset`` or later."""
        self.first_offset = self.next_offset = offset
        self.rows, self.row_count, self.octets = {}, 0, 0


class Recorder:
    """Takes messages, keeps them as rows, and writes segments when they are due: bounded memory, no Kafka in it.

    Args:
        store: the recording.
        settings: when segments are due.
        facts: what every file tells besides its offsets.
        meter: counts rows in and out.
        settle: called before each commit; what was said about messages refused must be safe when it returns.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        settings: RecordSettings,
        facts: Mapping[str, Any],
        meter: StageMeter,
        settle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.meter = meter
        self._store, self._settings, self._facts = store, settings, facts
        self._settle, self._clock = settle, clock
        self._segments: dict[tuple[str, int], Segment] = {}

    def add(self, topic: str, partition: int, shape: Shape, offset: int) -> None:
        """Take a topic-partition up, from ``offset`` on."""
        self._segments[topic, partition] = Segment(topic, partition, shape, offset, offset)

    def skip_to(self, topic: str, partition: int, offset: int) -> int:
        """Go on at ``offset``, since the bus has dropped what was before; return how many messages that were."""
        segment = self._segments[topic, partition]
        lost = offset - segment.next_offset
        self._commit(segment)
        segment.begin_anew(offset)
        self.meter.count("messages_lost", lost)
        return lost

    def position(self, topic: str, partition: int) -> int:
        """Return the offset after the last message taken."""
        return self._segments[topic, partition].next_offset

    @property
    def waiting_rows(self) -> int:
        """Return how many rows are in memory only."""
        return sum(segment.row_count for segment in self._segments.values())

    def take(self, topic: str, partition: int, messages: Sequence[Message], refuse: Refuse) -> None:
        """Take messages of a topic-partition in the order of their offsets; those taken before are passed over."""
        segment = self._segments[topic, partition]
        fresh = [message for message in messages if message.offset >= segment.next_offset]
        self.meter.count("messages_repeated", len(messages) - len(fresh))
        if not fresh:
            return
        if segment.next_offset == segment.first_offset:
            segment.since_s = self._clock()
        for key, batch in segment.shape.batches(partition, fresh, refuse):
            segment.rows.setdefault(key, []).append(batch)
            segment.row_count += batch.num_rows
            segment.octets += batch.nbytes + _OBJECT_BYTES
            self.meter.items_in += batch.num_rows
        segment.next_offset = fresh[-1].offset + 1
        self.meter.count("messages", len(fresh))
        if self._is_full(segment):
            self._commit(segment)
        self._keep_bounds()

    def _is_full(self, segment: Segment) -> bool:
        settings = self._settings
        return (
            segment.row_count >= settings.roll_rows
            or segment.octets >= settings.roll_mb << 20
            or len(segment.rows) >= MAX_FILES
        )

    def _keep_bounds(self) -> None:
        held = sum(segment.octets for segment in self._segments.values())
        while held > self._settings.memory_mb << 20:
            largest = max(self._segments.values(), key=lambda segment: segment.octets)
            held -= largest.octets
            self._commit(largest)
            self.meter.count("segments_early")
        self.meter.state_bytes = held

    def write_due(self) -> None:
        """Write the segments that are old enough."""
        now_s = self._clock()
        for segment in self._open():
            if now_s - segment.since_s >= self._settings.roll_s:
                self._commit(segment)

    def write_all(self) -> None:
        """Write everything that is in memory."""
        for segment in self._open():
            self._commit(segment)

    def _open(self) -> Iterable[Segment]:
        return [s for s in self._segments.values() if s.next_offset > s.first_offset]

    def _commit(self, segment: Segment) -> None:
        if segment.next_offset == segment.first_offset:
            return
        self._settle()
        offsets = (segment.first_offset, segment.next_offset)
        written = self._store.commit(segment.topic, segment.partition, offsets, segment.rows, self._facts)
        self.meter.items_out += segment.row_count
        self.meter.output_bytes += written.octets
        self.meter.count("files", written.files)
        segment.begin_anew(segment.next_offset)
