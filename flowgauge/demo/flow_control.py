"""Bounds what is in flight on the embedded broker, which drops the oldest 5 MiB of a partition without a word.

A message is in flight from when it is produced until its consumer group has committed past it. The replay asks
``FlowControl.admit`` before each batch, and waits there while a partition holds too much: of its own topic, or of
a topic further down that its batch will add to.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from schemas.errors import BusError

LIMIT_BYTES = 3_000_000
"""Most bytes in flight per partition: what is left of 5 MiB is for a batch that is on its way."""

_POLL_S = 0.02
_PATIENCE_S = 60.0

Place = tuple[str, int]
"""Topic and partition."""
Committed = Callable[[str, list[Place]], Mapping[Place, int]]
"""Tells, for a consumer group and places, the offset of the next message that it will read."""


class Ledger:
    """What is in flight in one partition: offset and size of each message not yet committed past."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self.bytes = 0
        self.next_offset = 0

    def add(self, size: int, offset: int | None = None) -> None:
        """Note a message; without ``offset`` it is the one after the last."""
        offset = self.next_offset if offset is None else offset
        self.next_offset = offset + 1
        self._waiting.append((offset, size))
        self.bytes += size

    def release(self, committed: int) -> None:
        """Forget the messages before ``committed``."""
        while self._waiting and self._waiting[0][0] < committed:
            self.bytes -= self._waiting.popleft()[1]


class FlowControl:
    """Ledgers of every partition of the topics that count; safe for the replay's and the watcher's threads."""

    def __init__(self, groups: Mapping[str, str], committed: Committed, stop: Callable[[], bool]) -> None:
        """Control the topics of ``groups``: topic to the consumer group whose commits release its messages."""
        self._groups = dict(groups)
        self._committed = committed
        self._stop = stop
        self._lock = threading.Lock()
        self._ledgers: dict[Place, Ledger] = {}
        self.waits = 0
        self.most_bytes = 0

    def note(self, topic: str, partition: int, size: int, offset: int | None = None) -> None:
        """Note a message that somebody produced."""
        if topic in self._groups:
            with self._lock:
                self._ledgers.setdefault((topic, partition), Ledger()).add(size, offset)

    def admit(self, topic: str, partition: int, size: int) -> None:
        """Return when a batch may leave.

        Raises:
            BusError: the consumers did not catch up for a minute.
        """
        deadline = time.monotonic() + _PATIENCE_S
        waited = False
        while not self._stop():
            full = self._full(partition, size)
            if not full:
                break
            self._refresh()
            if self._full(partition, size):
                waited = True
                if time.monotonic() > deadline:
                    raise BusError(f"the consumers of {full[0]} [{partition}] do not catch up")
                time.sleep(_POLL_S)
        self.waits += waited
        self.note(topic, partition, size)

    def _full(self, partition: int, size: int) -> list[str]:
        """Return the topics whose partition holds too much for ``size`` more bytes."""
        with self._lock:
            held = {t: ledger.bytes for (t, p), ledger in self._ledgers.items() if p == partition}
        self.most_bytes = max([self.most_bytes, *held.values()])
        return [topic for topic, octets in held.items() if octets + size > LIMIT_BYTES]

    def _refresh(self) -> None:
        for topic, group in self._groups.items():
            with self._lock:
                places = [place for place in self._ledgers if place[0] == topic]
            for place, offset in self._committed(group, places).items():
                with self._lock:
                    self._ledgers[place].release(offset)

    def in_flight(self) -> dict[str, int]:
        """Return how many messages of each topic are not yet committed past, by what the groups say now."""
        self._refresh()
        with self._lock:
            out = dict.fromkeys(self._groups, 0)
            for (topic, _), ledger in self._ledgers.items():
                out[topic] += len(ledger._waiting)
        return out
