"""A bus that keeps nothing, for measuring a stage by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from producers.bus import Item


class NullSink:
    """Counts what it is given and acknowledges it at once."""

    def __init__(self) -> None:
        self.acked = self.failed = self.sent_bytes = self.acked_items = self.failed_items = 0
        self.items: Counter[str] = Counter()
        """Items by topic."""
        self.messages: Counter[str] = Counter()
        """Messages by topic."""

    @property
    def sent(self) -> int:
        """Messages handed over."""
        return self.acked

    @property
    def outstanding(self) -> int:
        """Messages neither acknowledged nor failed: none."""
        return 0

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        """Count a message."""
        self.acked += 1
        self.sent_bytes += len(value)
        self.acked_items += items
        self.items[topic] += items
        self.messages[topic] += 1

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        """Count messages of one record each."""
        for value, _, _ in items:
            self.produce(topic, value, items=1)

    def check(self) -> None:
        """Find nothing wrong."""

    def flush(self, timeout_s: float) -> int:
        """Wait for nothing."""
        return 0
