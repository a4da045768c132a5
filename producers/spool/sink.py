"""A bus that may be away: what it does not take waits on disk, and is sent in order once it is back.

Messages go straight to the bus while it answers. Where it owes an answer for too long, or too many, all that have
none are written to the queue on disk, and so is whatever comes then. What is read from it is handed over behind them,
so that the order stays, and a place on disk is given up only when the bus has acknowledged everything before it.
librdkafka keeps trying for ever, and its idempotent producer keeps the order of each partition. Where it gives up all
the same, all that has no answer is handed over again, oldest first: a consumer may see some messages twice, and knows
them by probe, epoch, partition and sequence.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from confluent_kafka import KafkaError

from producers.bus import MAX_MESSAGE_BYTES, Done, Item
from producers.spool.config import SpoolSettings
from producers.spool.queue import DiskQueue
from producers.spool.records import Record
from producers.spool.segments import Contents, Fault, Place
from producers.spool.syncer import Syncer
from schemas.errors import BusError

_TURN_BYTES = 2 << 20
"""Most that is handed over from disk at a time, so that packets coming in do not wait for it."""
_MAX_WAITING = 50_000
_POLL_S = 0.02
_PURGE_S = 5.0
_STALL_S = 3.0
"""How long the end waits for a bus that does not answer."""
_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError._INVALID_ARG)
"""What no repetition mends."""

Tell = Callable[[str], None]
"""Told, in one line, what an operator should know; the same may be told again and again."""


class Bus(Protocol):
    """What ``producers.bus.BusProducer`` is to the spool."""

    sent_bytes: int

    def produce(
        self,
        topic: str,
        value: bytes,
        partition: int | None = None,
        key: str | None = None,
        items: int = 0,
        done: Done | None = None,
    ) -> None:
        """Hand a message over."""

    def check(self) -> None:
        """Take in answers; raises BusError where the producer cannot go on."""

    def purge(self) -> None:
        """Give up all messages without an answer."""

    @property
    def outstanding(self) -> int:
        """Messages without an answer."""


class _Message:
    """A message handed over, or to be handed over again; its value is on disk where it has a place there."""

    __slots__ = (
        "done",
        "handed_s",
        "is_old",
        "items",
        "key",
        "partition",
        "place",
        "size",
        "time_ns",
        "topic",
        "value",
    )

    def __init__(self, record: Record, place: Place | None, is_old: bool) -> None:
        self.topic, self.partition, self.key, self.items = (
            record.topic,
            record.partition,
            record.key,
            record.items,
        )
        self.value: bytes | None = record.value if place is None else None
        self.size, self.time_ns = len(record.value), record.time_ns
        self.place = place
        self.is_old = is_old
        self.handed_s = 0.0
        self.done = False


class SpoolSink:
    """A ``producers.bus.Sink`` that loses nothing while the bus is away, within bounds.

    ``sent == acked + failed + outstanding + kept``, of the messages of this process. Not for several threads.

    Args:
        settings: where and how much.
        make_bus: makes a producer whose messages do not time out; called again where one cannot go on.
        tell: told what an operator should know.
        clock: gives seconds that never go back.
        wall_ns: the wall clock.
        syncs: whether a thread syncs the disk; tests do that themselves.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        make_bus: Callable[[], Bus],
        tell: Tell,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        syncs: bool = True,
    ) -> None:
        self._settings, self._make_bus, self._tell = settings, make_bus, tell
        self._clock, self._wall_ns = clock, wall_ns
        self.counts: Counter[str] = Counter()
        """Since the start, messages and packets: ``spooled`` (written to disk), ``drained`` (acknowledged from
        there), ``recovered`` (left by an earlier process), dropped as ``spool_full``, ``spool_failed``, ``refused``."""
        self.dropped_by_partition: Counter[int] = Counter()
        """Packets dropped, by partition."""
        self.sent = self.acked = self.failed = self.sent_bytes = 0
        self.sent_items = self.acked_items = self.failed_items = 0
        self.kept = self.kept_items = 0
        """What the end left on disk for the next process, messages and packets of this one."""
        self.queue = DiskQueue(Path(settings.path), _segment_bytes(settings), self._on_fault)
        self.counts["recovered_messages"] += self.queue.found.records
        self.counts["recovered_packets"] += self.queue.found.items
        self._window: deque[_Message] = deque()
        self._window_bytes = 0
        self._again: deque[_Message] = deque()
        self._life = self._answers = 0
        self._trouble = ""
        self._retry_s = 0.0
        self._is_spooling = False
        self._oldest_ns: int | None = self.queue.found.first_ns
        self._bus = make_bus()
        self._syncer = Syncer(self.queue.sync, settings.sync_s, self._sync_failed) if syncs else None

    def _on_fault(self, fault: Fault, lost: Contents) -> None:
        self.counts["spool_cut" if fault.is_cut else "spool_corrupt"] += 1
        self.counts["spool_skipped_bytes"] += fault.lost_bytes
        is_old = bool(lost.records) and int(fault.path.stem) < self.queue.first_own
        self._count_lost("spool_corrupt", lost, is_old=is_old)
        self._tell(f"spool segment {fault}")

    def _sync_failed(self, reason: str) -> None:
        self.counts["spool_sync_failed"] += 1
        self._tell(f"spool {self._settings.path}: cannot sync: {reason}")

    # What a stage does.

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        """Take a message over: to the bus, or to the disk. Never waits for the bus."""
        record = Record(topic, value, partition, key, items, self._wall_ns())
        self.sent += 1
        self.sent_items += items
        self.sent_bytes += len(value)
        self._turn()
        if len(value) > MAX_MESSAGE_BYTES:
            self._refuse(_Message(record, None, is_old=False), f"{len(value):,} bytes are too many")
        elif not self._backlog and self._settings.after_s and self._has_room(len(value)):
            self._hand(_Message(record, None, is_old=False))
        else:
            self._spool(record)
            if not self._trouble:
                self._hand_on()

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        """Take messages of one record each over."""
        for value, partition, key in items:
            self.produce(topic, value, partition, key, items=1)

    def check(self) -> None:
        """Take in the bus's answers and hand over what waits; call it now and then. Never raises for the bus."""
        self._turn()

    def flush(self, timeout_s: float) -> int:
        """Wait until all is acknowledged, for so long at most and while the bus answers; the rest stays on disk.

        Returns 0.

        What could not be kept there either is counted as failed.
        """
        deadline = self._clock() + timeout_s
        moved_s, answered = self._clock(), -1
        while self._waits and self._clock() < min(deadline, moved_s + _STALL_S):
            self._turn()
            if answered != self._answers:
                moved_s, answered = self._clock(), self._answers
            if self._waits:
                time.sleep(_POLL_S)
        self._save()
        return 0

    @property
    def outstanding(self) -> int:
        """Messages of this process that the bus has not acknowledged yet, on disk or not; 0 once they are kept."""
        return self.sent - self.acked - self.failed - self.kept

    # Where it stands.

    @property
    def spooled_bytes(self) -> int:
        """Return what the queue takes on disk."""
        return self.queue.bytes

    @property
    def age_s(self) -> float:
        """Return for how long the oldest message on disk has waited for the bus."""
        if not self.queue.bytes:
            return 0.0
        first = self._window[0] if self._window else (self._again[0] if self._again else None)
        oldest_ns = self._oldest_ns if first is None else first.time_ns
        return 0.0 if oldest_ns is None else max(0.0, (self._wall_ns() - oldest_ns) / 1e9)

    @property
    def _backlog(self) -> bool:
        return bool(self._again) or not self.queue.is_read or self._is_late or bool(self._trouble)

    @property
    def _waits(self) -> bool:
        return bool(self._window or self._again) or not self.queue.is_read

    @property
    def _is_late(self) -> bool:
        return bool(self._window) and self._clock() - self._window[0].handed_s > self._settings.after_s

    def _has_room(self, size: int) -> bool:
        used = self._window_bytes + size
        return len(self._window) < _MAX_WAITING and (
            used <= self._settings.memory_kbytes << 10 or not self._window
        )

    # One turn: answers in, messages out.

    def _turn(self) -> None:
        try:
            self._bus.check()
        except BusError as error:
            self._start_again(str(error))
        self._settle()
        if self._trouble:
            self._recover()
            return
        if self._is_late:
            self._spill()
        self._hand_on()

    def _settle(self) -> None:
        """Forget what was acknowledged, oldest first, and give its place on disk up."""
        window = self._window
        while window and window[0].done:
            message = window.popleft()
            self._window_bytes -= message.size
        if self.queue.bytes:
            first = next((m.place for m in (*self._again, *window) if m.place is not None), None)
            self.queue.acknowledge(self.queue.next if first is None else first)
            if not self.queue.bytes:
                self._oldest_ns = None
                if self._is_spooling:
                    self._is_spooling = False
                    self._tell(f"spool {self._settings.path}: empty; messages go straight to the bus again")

    def _hand_on(self) -> None:
        """Hand over what is to be handed over again, then what waits on disk, as far as there is room."""
        left = _TURN_BYTES
        while left > 0 and not self._trouble:
            if self._again:
                message = self._again[0]
                if not self._has_room(message.size):
                    return
                self._again.popleft()
                self._hand(message)
            elif not self.queue.is_read and self._has_room(1):
                found = self.queue.read()
                if found is None:
                    return
                place, record = found
                self._oldest_ns = record.time_ns
                message = _Message(record, place, place.number < self.queue.first_own)
                self._hand(message, record.value)
            else:
                return
            left -= message.size

    def _hand(self, message: _Message, value: bytes | None = None) -> None:
        value = message.value if value is None else value
        if value is None and message.place is not None:
            record = self.queue.read_again(message.place)
            value = None if record is None else record.value
        if value is None:
            self._drop("spool_full", message)
            return
        message.handed_s = self._clock()
        life = self._life
        try:
            self._bus.produce(
                message.topic, value, message.partition, message.key, message.items,
                done=lambda error: self._answered(message, error, life),
            )  # fmt: skip
        except BusError as error:
            self._again.appendleft(message)
            self._fail(str(error))
            return
        self._window.append(message)
        self._window_bytes += message.size

    def _answered(self, message: _Message, error: KafkaError | None, life: int) -> None:
        if life != self._life or message.done:
            return
        if error is None:
            message.done = True
            self._acknowledged(message)
        elif error.code() in _REFUSED:
            message.done = True
            self._refuse(message, error.str())
        else:
            self._fail(error.str())

    def _acknowledged(self, message: _Message) -> None:
        self._answers += 1
        if not message.is_old:
            self.acked += 1
            self.acked_items += message.items
        if message.place is not None:
            self.counts["drained_messages"] += 1
            self.counts["drained_packets"] += message.items

    # Trouble.

    def _fail(self, reason: str) -> None:
        if not self._trouble:
            self._trouble, self._retry_s = reason, self._clock() + self._settings.retry_s
            self.counts["bus_refusals"] += 1
            self._tell(f"{reason}; trying again in {self._settings.retry_s:g} s")

    def _start_again(self, reason: str) -> None:
        """Go on with another producer: this one cannot."""
        self._leave_bus()
        self._bus = self._make_bus()
        self._trouble = ""
        self._fail(reason)

    def _leave_bus(self) -> None:
        """Have the producer send nothing any more: by itself it goes on, behind or between what another one sends."""
        self._life += 1
        self._bus.purge()

    def _recover(self) -> None:
        """Once the pause is over and no answer is owed any more, hand all over again, oldest first."""
        if self._clock() < self._retry_s:
            self._spill()
            return
        if self._bus.outstanding:
            self._bus.purge()
            deadline = self._clock() + _PURGE_S
            while self._bus.outstanding and self._clock() < deadline:
                self._bus.check()
            self._settle()
        self._life += 1
        self._again = deque([*(m for m in self._window if not m.done), *self._again])
        self._window.clear()
        self._window_bytes = 0
        self._trouble = ""

    def _spill(self) -> None:
        """Write to disk what was handed over, or is to be, and is in memory alone: it comes before all that follows.

        Where the disk had refused it before and took later messages, it has to stay in memory, for the order.
        """
        if not self.queue.is_read:
            return
        for message in (*self._window, *self._again):
            if message.place is None and not message.done and message.value is not None:
                record = Record(
                    message.topic,
                    message.value,
                    message.partition,
                    message.key,
                    message.items,
                    self._wall_ns(),
                )
                place = self._write(record, is_read=True)
                if place is None:
                    return
                message.place, message.value = place, None

    def _spool(self, record: Record) -> None:
        self._spill()
        if self._write(record) is None:
            self._drop("spool_failed", _Message(record, None, is_old=False))

    def _write(self, record: Record, *, is_read: bool = False) -> Place | None:
        """Write a record; where the queue is full, the oldest segments go. None where the disk does not take it."""
        limit = self._settings.max_mbytes << 20
        while self.queue.bytes + len(record.value) > limit and self._drop_oldest():
            pass
        try:
            place = self.queue.append(record, is_read=is_read)
        except OSError as error:
            self.counts["spool_errors"] += 1
            self._tell(f"spool {self._settings.path}: cannot write: {error.strerror or error}")
            return None
        self.counts["spooled_messages"] += 1
        self.counts["spooled_packets"] += record.items
        if self._oldest_ns is None:
            self._oldest_ns = record.time_ns
        if not self._is_spooling:
            self._is_spooling = True
            self._tell(f"the bus does not answer in time; messages go to the spool {self._settings.path}")
        if self._settings.sync_s == 0:
            try:
                self.queue.sync()
            except OSError as error:
                self._sync_failed(error.strerror or str(error))
        return place

    def _drop_oldest(self) -> bool:
        """Drop the oldest segment, return whether there was one. What was handed over of it may still arrive."""
        is_old = min(self.queue.sizes, default=self.queue.first_own) < self.queue.first_own
        lost = self.queue.drop_oldest()
        if lost is None:
            return False
        self._count_lost("spool_full", lost, is_old=is_old)
        self._tell(
            f"spool {self._settings.path}: full; the oldest {lost.records:,} messages are dropped, with "
            f"{lost.items:,} packets"
        )
        return True

    def _count_lost(self, reason: str, lost: Contents, *, is_old: bool) -> None:
        self.counts[f"{reason}_messages"] += lost.records
        self.counts[f"{reason}_packets"] += lost.items
        self.dropped_by_partition += lost.by_partition
        if not is_old:
            self.failed += lost.records
            self.failed_items += lost.items

    def _refuse(self, message: _Message, reason: str) -> None:
        self._tell(f"the bus refuses a message of topic {message.topic}, which is dropped: {reason}")
        self._drop("refused", message)

    def _drop(self, reason: str, message: _Message) -> None:
        message.done = True
        lost = Contents(1, message.items)
        if message.items and message.partition is not None:
            lost.by_partition[message.partition] = message.items
        self._count_lost(reason, lost, is_old=message.is_old)

    # The end.

    def _save(self) -> None:
        """Put all without an answer on disk, for the next process."""
        self._spill()
        for message in [m for m in (*self._window, *self._again) if not m.done]:
            if message.place is None:
                self._drop("spool_failed", message)
            elif not self.queue.holds(message.place):
                self._drop("spool_full", message)
        self._settle()
        self.kept = self.sent - self.acked - self.failed
        self.kept_items = self.sent_items - self.acked_items - self.failed_items
        try:
            self.queue.sync()
        except OSError as error:
            self._sync_failed(error.strerror or str(error))

    def close(self) -> None:
        """Send nothing any more and let go of the folder, where all without an answer stays for the next process.

        ``flush`` before waits for answers. Of what was under way just now the next process sends some again.
        """
        with suppress(BusError):
            self._bus.check()
        self._save()
        self._leave_bus()
        if self._syncer is not None:
            self._syncer.close()
        self.queue.close()


def _segment_bytes(settings: SpoolSettings) -> int:
    """Return the size of segments: at least four fit, so that a full queue does not lose all at once."""
    return min(settings.segment_mbytes << 20, (settings.max_mbytes << 20) // 4)
