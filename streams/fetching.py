"""Fetches messages in a thread of its own, by librdkafka, and hands them to an event loop.

Faust's client, aiokafka, is in Python: a fetch took it 0.4 ms, in a thread that shares the interpreter with the
handler. It stays in the consumer group and commits; messages come past it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from producers.config import BusSettings
from producers.security.clients import Trouble, account, client_properties, forbidden, only_of_group, said
from schemas.errors import BusError, FlowgaugeError

log = logging.getLogger("flowgauge")

FETCHED_MESSAGES = 32
"""Most messages of a fetch. The event loop has its turn after so many, or after less than twice as many."""
FETCHES_AHEAD = 4
"""Most fetches that wait for the handler; a message is a batch of up to some 60 KiB."""
_QUEUE_KBYTES = 8192
"""What librdkafka itself holds for this program."""
_POLL_S = 0.1
_ABSENT = frozenset({
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART,
})  # fmt: skip
"""Errors of a topic that is away: librdkafka tries on."""

Place = Any
"""A topic and partition, as Faust has them: ``topic`` and ``partition``."""


class Record(NamedTuple):
    """A message as it is on the bus."""

    offset: int
    key: bytes | None
    value: bytes | None
    time_ms: int
    """When it was made, or appended, in ms since the epoch."""


Fetched = Sequence[tuple[Place, Record]]
"""What a fetch brought: each message and where it is from."""


OnError = Callable[[KafkaError], None]
"""Told of an error of the whole client."""


def fetching_client(bus: BusSettings, group: str, wait_s: float, on_error: OnError) -> Any:
    """Return a consumer that joins no group and commits nothing.

    Args:
        bus: where it reads.
        group: full name, prefix included: librdkafka wants one, and this account may use this one.
        wait_s: how long the broker may hold a fetch until there is data.
        on_error: told of errors of the whole client; refusals of the broker are told in the log as well.

    Raises:
        FlowgaugeError: it cannot be made.
    """
    trouble = Trouble(bus)
    trouble.tells = True

    def told(error: KafkaError) -> None:
        trouble(error)
        on_error(error)

    properties = {
        "client.id": "flowgauge",
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_uncommitted",
        "check.crcs": True,
        "fetch.wait.max.ms": round(wait_s * 1000),
        "fetch.error.backoff.ms": 100,
        # After its queue was full it would look again in a second.
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": _QUEUE_KBYTES,
        "reconnect.backoff.max.ms": 2000,
        "error_cb": told,
    }
    try:
        return Consumer(client_properties(bus, properties, trouble))
    except (KafkaException, ValueError, TypeError) as error:
        raise BusError(f"bus {bus.bootstrap}: {said(error)}") from error


class Flow:
    """Fetches from when it is made until its end, at most some fetches ahead of who takes them.

    What an ended flow still hands over is dropped by who gets it. Nothing is lost by that: between two flows there is
    a rebalance, and the second begins where the group's committed offsets are.

    Each of the two counters is written by one thread alone, so that neither waits for the other.
    """

    def __init__(
        self,
        bus: BusSettings,
        connect: Callable[[OnError], Any],
        begin: Mapping[Place, int | None],
        arrived: Callable[[Flow, Fetched | FlowgaugeError], None],
    ) -> None:
        """Begin to fetch, on a running event loop.

        Args:
            bus: for the words of errors.
            connect: makes the client, see ``fetching_client``, in the flow's thread.
            begin: the first offset of each partition; None: from its beginning.
            arrived: called on the event loop with what a fetch brought, or once with why there will be no more.
        """
        self._bus, self._connect, self._begin, self._arrived = bus, connect, dict(begin), arrived
        self._loop = asyncio.get_running_loop()
        self._places = {(place.topic, place.partition): place for place in begin}
        self._brought = 0
        self._taken = 0
        self._room = threading.Event()
        self._ended = False
        self._errors: list[KafkaError] = []
        self._told: set[str] = set()
        self._ends: dict[Place, int] = {}
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def took(self) -> None:
        """Make room for another fetch; called by who takes them."""
        self._taken += 1
        if self._brought - self._taken >= FETCHES_AHEAD - 1:
            self._room.set()

    def end(self) -> None:
        """Stop fetching; does not wait for it."""
        self._ended = True
        self._room.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the client is closed."""
        self._thread.join(timeout_s)

    def end_offset(self, place: Place) -> int | None:
        """Return the offset behind the last message of a partition, as the last fetches told; None: not known."""
        return self._ends.get(place)

    def _run(self) -> None:
        try:
            client = self._connect(self._errors.append)
            try:
                self._fetch(client)
            finally:
                client.close()
        except FlowgaugeError as error:
            self._hand_over(error)
        except Exception as error:  # nobody else would hear of it
            log.error("fetching ends", exc_info=error)
            self._hand_over(BusError(f"bus {self._bus.bootstrap}: {type(error).__name__}: {said(error)}"))

    def _fetch(self, client: Any) -> None:
        client.assign([
            TopicPartition(place.topic, place.partition, OFFSET_BEGINNING if offset is None else offset)
            for place, offset in self._begin.items()
        ])  # fmt: skip
        while not self._ended:
            if self._brought - self._taken >= FETCHES_AHEAD:
                self._room.clear()
                if self._brought - self._taken >= FETCHES_AHEAD:
                    self._room.wait(_POLL_S)
                    self._look_at_ends(client)
                continue
            first = client.poll(_POLL_S)
            while self._errors:
                self._consider(self._errors.pop(0))
            if first is None:
                self._look_at_ends(client)
                continue
            # What has come with it, without waiting for more.
            found = self._records([first, *client.consume(FETCHED_MESSAGES - 1, 0)])
            if found:
                self._look_at_ends(client, {place for place, _ in found})
                self._brought += 1
                self._hand_over(found)

    def _records(self, messages: Sequence[Any]) -> Fetched:
        found = []
        for message in messages:
            if (error := message.error()) is not None:
                self._consider(error, message.topic())
                continue
            record = Record(message.offset(), message.key(), message.value(), message.timestamp()[1])
            found.append((self._places[message.topic(), message.partition()], record))
        return found

    def _consider(self, error: KafkaError, topic: str | None = None) -> None:
        """Go on after an error that passes; raise one that does not.

        What a broker says of a topic passes, and so does that there is none. What librdkafka itself says of one means a
        message that it cannot read, and would leave out. Without a topic it is one of the whole client, which looks
        after itself.
        """
        if only_of_group(error):
            return
        bus = f"bus {self._bus.bootstrap}"
        if forbidden(error):
            what = topic or f"what it needs: {error.str()}"
            raise BusError(f"{bus}: no ACL of the bus lets {account(self._bus)} read {what}")
        about = f"topic {topic}: {error.str()}" if topic else error.str()
        absent = error.code() in _ABSENT
        if error.fatal() or (topic and error.code() < KafkaError.UNKNOWN and not absent):
            raise BusError(f"{bus}: {about}")
        if (topic or absent) and about not in self._told:
            self._told.add(about)
            log.warning("%s: %s; trying on", bus, about)

    def _look_at_ends(self, client: Any, places: set[Place] | None = None) -> None:
        """Remember where partitions end, all of them or some, as the broker told with its last answers."""
        for place in self._places.values() if places is None else places:
            where = TopicPartition(place.topic, place.partition)
            _, end = client.get_watermark_offsets(where, cached=True)
            if end >= 0:
                self._ends[place] = end

    def _hand_over(self, what: Fetched | FlowgaugeError) -> None:
        if not self._ended:
            # The loop may have been closed meanwhile by a worker that ends: then nobody waits for it.
            try:
                self._loop.call_soon_threadsafe(self._arrived, self, what)
            except RuntimeError:
                self._ended = True
