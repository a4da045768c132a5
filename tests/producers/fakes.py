"""A bus that keeps what it is given, and a clock that only sleeping moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from producers.bus import Item
from producers.clock_offset import ClockOffset
from schemas.packets import PacketBatch, decode_packet_batch


class Message(NamedTuple):
    topic: str
    value: bytes
    partition: int | None
    key: str | None
    wall_ns: int


class ManualClock:
    """Stands still but for ``wait``, which passes the time asked for and ``overshoot_ns``."""

    def __init__(self, wall_ns: int = 2_000_000_000_000_000_000, overshoot_ns: int = 0) -> None:
        self.start_ns = wall_ns
        self.passed_ns = 0
        self.overshoot_ns = overshoot_ns
        self.waits_ns: list[int] = []

    def wall_ns(self) -> int:
        return self.start_ns + self.passed_ns

    def monotonic_ns(self) -> int:
        return 5_000 + self.passed_ns

    def wait(self, seconds: float, stop: threading.Event) -> None:
        assert seconds > 0
        if not stop.is_set():
            self.waits_ns.append(round(seconds * 1e9))
            self.passed_ns += self.waits_ns[-1] + self.overshoot_ns


class FakeSink:
    """Acknowledges all at ``flush``, but for the messages that ``fails`` picks."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.messages: list[Message] = []
        self.sent_bytes = self.acked = self.failed = self.acked_items = self.failed_items = 0
        self.on_produce: Callable[[Message], None] = lambda message: None
        self.fails: Callable[[Message], bool] = lambda message: False
        self.clock = ClockOffset()
        self._clock = clock or ManualClock()
        self._waiting: list[tuple[Message, int]] = []

    @property
    def sent(self) -> int:
        return len(self.messages)

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        message = Message(topic, value, partition, key, self._clock.wall_ns())
        self.messages.append(message)
        self._waiting.append((message, items))
        self.sent_bytes += len(value)
        self.on_produce(message)

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        for value, partition, key in items:
            self.produce(topic, value, partition, key, items=1)

    def produce_timed(self, topic: str, value: bytes, partition: int, key: str) -> None:
        self.produce(topic, value, partition, key)

    def check(self) -> None:
        pass

    def flush(self, timeout_s: float) -> int:
        for message, items in self._waiting:
            if self.fails(message):
                self.failed, self.failed_items = self.failed + 1, self.failed_items + items
            else:
                self.acked, self.acked_items = self.acked + 1, self.acked_items + items
        self._waiting.clear()
        return 0

    def batches(self, topic: str = "packets") -> list[PacketBatch]:
        """Return the packet batches, checked to lie in the partition they are made for."""
        out = []
        for message in self.messages:
            if message.topic == topic:
                batch = decode_packet_batch(message.value)
                assert batch.partition == message.partition
                out.append(batch)
        return out
