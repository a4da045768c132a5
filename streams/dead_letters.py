"""Messages that cannot be used: set aside on ``dead-letters``, counted, and told once per topic and reason."""

from __future__ import annotations

import logging
import time
from collections import Counter

from producers.bus import Sink
from producers.config import BusSettings, topic_name
from schemas.codec import encode
from schemas.topics import DEAD_LETTERS

log = logging.getLogger("flowgauge")

KEPT_BYTES = 64 * 1024


class DeadLetters:
    """Sets messages aside for one stage."""

    def __init__(self, stage: str, bus: BusSettings, sink: Sink) -> None:
        self.stage = stage
        self.counts: Counter[str] = Counter()
        """Messages set aside, by topic."""
        self._bus = bus
        self._sink = sink

    def put(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, reason: str
    ) -> None:
        """Set a message aside; ``topic`` is the plain name. The first of a topic is told to the user."""
        value = value or b""
        if not self.counts[topic]:
            log.error(
                "%s [%d] offset %d cannot be used and is set aside: %s (more are counted)",
                topic_name(self._bus, topic),
                partition,
                offset,
                reason,
            )
        self.counts[topic] += 1
        record = {
            "topic": topic_name(self._bus, topic),
            "partition": partition,
            "offset": offset,
            "stage": self.stage,
            "reason": reason,
            "time_ns": time.time_ns(),
            "key": key,
            "message_size": len(value),
            "message": value[:KEPT_BYTES],
        }
        self._sink.produce(topic_name(self._bus, DEAD_LETTERS), encode("DeadLetter", record), partition=0)
