"""The producer that every stage publishes through: idempotent, bounded, and every message accounted for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException, Producer

from producers.clock_offset import ClockOffset
from producers.config import BusSettings, topic_name
from producers.security.access import why_missing
from producers.security.clients import Trouble, account, client_properties, forbidden, said
from schemas.errors import BusError
from schemas.topics import PACKETS, PAYLOADS

MAX_MESSAGE_BYTES = 1_000_000
"""Most bytes in a message or request: what an unconfigured broker takes, and the embedded one keeps."""

AT_ONCE = (PACKETS, PAYLOADS)
"""Topics whose messages do not wait for others: they are large, and their packets have waited for them already."""

_POLL_EVERY = 64
_METADATA_TRY_S = 1.0
_RETRY_S = 0.25
_FLUSH_SLICE_S = 0.2


Done = Callable[[KafkaError | None], None]
"""Told why a message was not delivered; None: it was."""


Item = tuple[bytes, int, str]
"""A message that stands for one record: value, partition, key."""


def octets_of(items: Sequence[Item]) -> int:
    """Return the size of the values of messages, in bytes."""
    return sum([len(item[0]) for item in items])


class Sink(Protocol):
    """Where a stage publishes to: the bus, or a list in a test."""

    failed: int
    sent_bytes: int
    acked_items: int
    failed_items: int

    @property
    def acked(self) -> int:
        """Messages acknowledged."""

    @property
    def sent(self) -> int:
        """Messages handed over."""

    @property
    def outstanding(self) -> int:
        """Messages neither acknowledged nor failed."""

    def produce(
        self, topic: str, value: bytes, partition: int | None = None, key: str | None = None, items: int = 0
    ) -> None:
        """Hand over a message that stands for ``items`` packets or rows."""

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        """Hand over messages that stand for one record each."""

    def check(self) -> None:
        """Raise BusError if a message failed."""

    def flush(self, timeout_s: float) -> int:
        """Wait until every message has its answer; return how many have none."""


_BRING_TIMEOUT_S = 60.0


def bring(sink: Sink, bus: BusSettings) -> None:
    """Return once all that was produced is on the bus.

    Raises:
        BusError: it does not get there.
    """
    if left := sink.flush(_BRING_TIMEOUT_S):
        raise BusError(f"bus {bus.bootstrap}: {left:,} messages not acknowledged")
    sink.check()


@runtime_checkable
class TimedSink(Protocol):
    """A sink that knows how far this machine's clock is from the bus's."""

    clock: ClockOffset

    def produce_timed(self, topic: str, value: bytes, partition: int, key: str) -> None:
        """Hand over a message by whose answer the clocks are compared."""


class _LogCounter(logging.Handler):
    """Keeps librdkafka's log lines off the user's screen: counts them and remembers the last."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line."""
        self.lines += 1
        self.last = record.getMessage()


class BusProducer:
    """A librdkafka producer, or two where there are packets: nothing is lost without being counted.

    ``sent`` messages are ``acked + failed + outstanding``; the same holds for the items (packets, rows) that
    messages were said to hold. When the queue is full, ``produce`` waits for room; it never drops. Not for
    several threads at once.
    """

    def __init__(self, settings: BusSettings, *, only_failures: bool = False) -> None:
        """Make the producer; ``connect`` must follow.

        Args:
            settings: of the bus.
            only_failures: be told of messages that were not delivered alone, which saves a call for each that was;
                ``acked_items`` stays 0 then.

        Raises:
            BusError: the client library refuses the settings.
        """
        self.settings = settings
        self.failed = self.sent_bytes = 0
        self.acked_items = self.failed_items = 0
        self._only_failures = only_failures
        self._acked = 0
        self.first_error: str | None = None
        self.full_waits = 0
        self._sent = 0
        self._fatal: str | None = None
        self._trouble = Trouble(settings)
        self.log = _LogCounter()
        self._logger = logging.Logger("flowgauge.bus", logging.INFO)
        self._logger.addHandler(self.log)
        self._producer = self._client({})
        self._clients = [self._producer]
        self._prompt: Producer | None = None
        self._at_once = frozenset(topic_name(settings, topic) for topic in AT_ONCE)
        self.clock = ClockOffset()
        """This machine's clock against the broker's, as messages of ``produce_timed`` tell."""
        self._on_delivery = partial(self._delivered, items=1)

    def _client(self, more: Mapping[str, Any]) -> Producer:
        ours = {
            **_properties(self.settings),
            **more,
            "error_cb": self._on_error,
            "delivery.report.only.error": self._only_failures,
        }
        try:
            return Producer(client_properties(self.settings, ours, self._trouble), logger=self._logger)
        except (KafkaException, ValueError, TypeError) as error:
            raise BusError(f"bus {self.settings.bootstrap}: {said(error)}") from error

    def _client_of(self, topic: str) -> Producer:
        if topic not in self._at_once:
            return self._producer
        if self._prompt is None:
            # How long messages linger is a matter of the whole client, so these have one of their own.
            self._prompt = self._client({"linger.ms": 0})
            self._clients.append(self._prompt)
        return self._prompt

    def _poll(self) -> None:
        """Take in the answers that are there."""
        for client in self._clients:
            client.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() and self._fatal is None:
            self._fatal = error.str()
        self._trouble(error)

    def _error(self, text: str) -> BusError:
        return BusError(f"bus {self.settings.bootstrap}: {text}")

    def connect(
        self, *, stop: threading.Event | None = None, on_wait: Callable[[str], None] | None = None
    ) -> bool:
        """Wait for a broker, at most ``connect_timeout_s``; return False if ``stop`` was set meanwhile.

        ``on_wait`` is told once, in one line, that the broker does not answer yet.

        Raises:
            BusError: no broker answered in time, or one refused this client.
        """
        timeout_s = self.settings.connect_timeout_s
        deadline = time.monotonic() + timeout_s
        reason = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            if stop is not None and stop.is_set():
                return False
            try:
                self._producer.list_topics(timeout=min(_METADATA_TRY_S, left))
            except KafkaException as error:
                self._producer.poll(0)
                reason = self._trouble.reason(error)
            else:
                self._trouble.tells = True
                return True
            if self._trouble.refused:
                raise self._error(reason)
            if on_wait is not None:
                on_wait(f"bus {self.settings.bootstrap}: {reason}; trying for {timeout_s:g} s")
                on_wait = None
            time.sleep(max(0.0, min(_RETRY_S, deadline - time.monotonic())))
        raise self._error(f"no broker answered within {timeout_s:g} s ({reason})")

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has, 0 if it does not exist; never creates it.

        Raises:
            BusError: the broker does not answer.
        """
        try:
            found = self._producer.list_topics(timeout=self.settings.connect_timeout_s).topics.get(topic)
        except KafkaException as error:
            raise self._error(self._trouble.reason(error)) from error
        return 0 if found is None or found.error is not None else len(found.partitions)

    def require(self, topic: str, partitions: int | None = None) -> None:
        """Raise BusError unless a topic exists, with exactly so many partitions where that is said."""
        found = self.partitions(topic)
        if found == 0:
            raise self._error(why_missing(self.settings, [topic]))
        if partitions is not None and found != partitions:
            raise self._error(f"topic {topic} has {found} partitions, not {partitions} as in the settings")

    def produce(
        self,
        topic: str,
        value: bytes,
        partition: int | None = None,
        key: str | None = None,
        items: int = 0,
        done: Done | None = None,
    ) -> None:
        """Hand a message to the bus; waits while the queue is full.

        Args:
            topic: full name, prefix included.
            value: the encoded message, at most MAX_MESSAGE_BYTES.
            partition: where to; without it the key decides.
            key: key of the message.
            items: packets or rows in the message, counted when it is acknowledged.
            done: told what became of it, instead of ``check`` raising where it was not delivered.

        Raises:
            BusError: the message is refused at once, or the queue did not move for the delivery timeout.
        """
        self._enqueue(topic, value, partition, key, partial(self._delivered, items=items, done=done))

    def _enqueue(
        self, topic: str, value: bytes, partition: int | None, key: str | None, callback: Callable[..., None]
    ) -> None:
        client, where = self._client_of(topic), -1 if partition is None else partition
        deadline = 0.0
        while True:
            try:
                client.produce(topic, value, key, where, callback)
                break
            except BufferError:
                deadline = deadline or self._deadline()
                self._wait_for_room(client, deadline)
            except KafkaException as error:
                raise self._refused(topic, len(value), said(error)) from error
        self._sent += 1
        self.sent_bytes += len(value)
        if self._sent % _POLL_EVERY == 0:
            self._poll()

    def produce_timed(self, topic: str, value: bytes, partition: int, key: str) -> None:
        """Produce as ``produce`` does, and compare the clocks where the broker stamps the message.

        Raises:
            BusError: as ``produce``.
        """
        handed: list[int] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            self._delivered(error, message, 0)
            kind, stamp_ms = message.timestamp()
            if error is None and kind == TIMESTAMP_LOG_APPEND_TIME and handed:
                # When the answer came, not when it is looked at.
                self.clock.sample(sent_ns, handed[0] + round(message.latency() * 1e9), stamp_ms)

        sent_ns = time.time_ns()
        self._enqueue(topic, value, partition, key, delivered)
        handed.append(time.time_ns())

    def produce_items(self, topic: str, items: Sequence[Item]) -> None:
        """Hand over messages of one record each, as ``produce`` does with one.

        Each call of librdkafka gives the interpreter away, and where another thread waits for it, it is back only
        after that thread's turn: so one call for all of them.

        Raises:
            BusError: as ``produce``; the messages before the one refused are under way.
        """
        left: list[dict[str, Any]] = [{"value": v, "partition": p, "key": k} for v, p, k in items]
        client, deadline = self._client_of(topic), self._deadline()
        while left:
            taken = client.produce_batch(topic, left, on_delivery=self._on_delivery)
            if taken == len(left):
                self._sent += taken
                break
            failed = [
                (message, error) for message in left if (error := message.pop("_error", None)) is not None
            ]
            self._sent += len(left) - len(failed)
            for message, error in failed:
                if error.code() != KafkaError._QUEUE_FULL:
                    raise self._refused(topic, len(message["value"]), error.str())
            left = [message for message, _ in failed]
            if left:
                self._wait_for_room(client, deadline)
        self.sent_bytes += octets_of(items)
        self._poll()

    def _deadline(self) -> float:
        return time.monotonic() + self.settings.delivery_timeout_s + 5

    def _wait_for_room(self, client: Producer, deadline: float) -> None:
        """Let the full queue get shorter; raises BusError where it has not for the delivery timeout."""
        self.full_waits += 1
        if time.monotonic() > deadline:
            reason = self.first_error or self._trouble.last or "no answer"
            raise self._error(f"the queue stays full; {reason}")
        client.poll(0.05)

    def _refused(self, topic: str, size: int, reason: str) -> BusError:
        return self._error(f"topic {topic} refuses {size:,} bytes: {reason}")

    def _delivered(
        self, error: KafkaError | None, message: Any, items: int, done: Done | None = None
    ) -> None:
        if done is not None:
            done(error)
        if error is None:
            self._acked += 1
            self.acked_items += items
            return
        self.failed += 1
        self.failed_items += items
        if self.first_error is None and done is None:
            why = error.str()
            if forbidden(error):
                why = f"no ACL of the bus lets {account(self.settings)} write to it"
            elif self._trouble.refused:
                why = f"{why} ({self._trouble.refused})"
            self.first_error = f"topic {message.topic()} [{message.partition()}]: {why}"

    def purge(self) -> None:
        """Give up all messages without an answer: each is told as failed."""
        for client in self._clients:
            client.purge()
        self._poll()

    @property
    def sent(self) -> int:
        """Messages handed over since the start."""
        return self._sent

    @property
    def acked(self) -> int:
        """Messages that the broker has acknowledged."""
        if not self._only_failures:
            return self._acked
        return self._sent - self.failed - sum(len(client) for client in self._clients)

    @property
    def outstanding(self) -> int:
        """Messages neither acknowledged nor failed."""
        return self._sent - self.acked - self.failed

    def check(self) -> None:
        """Take in the broker's answers; call it now and then, also when nothing is produced.

        Raises:
            BusError: a message was not delivered, or the producer cannot go on.
        """
        self._poll()
        if self._fatal is not None:
            raise self._error(self._fatal)
        if self.first_error is not None:
            raise self._error(f"{self.failed:,} messages not delivered; {self.first_error}")

    def flush(self, timeout_s: float) -> int:
        """Send what waits and take in the answers; return how many messages have none after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.outstanding and (left := deadline - time.monotonic()) > 0:
            for client in self._clients:
                if len(client):
                    client.flush(min(_FLUSH_SLICE_S, left))
        return self.outstanding


def _properties(settings: BusSettings) -> dict[str, Any]:
    """Return the librdkafka properties that make the producer what it is."""
    return {
        "client.id": "flowgauge",
        "enable.idempotence": True,
        "linger.ms": settings.linger_ms,
        "compression.type": settings.compression,
        "batch.size": MAX_MESSAGE_BYTES,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "queue.buffering.max.kbytes": settings.queue_kbytes,
        "queue.buffering.max.messages": 1_000_000,
        "message.timeout.ms": int(settings.delivery_timeout_s * 1000),
        "reconnect.backoff.max.ms": 2000,
        "log_level": 4,
    }
