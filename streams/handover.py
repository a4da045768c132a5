"""The ``flows.state`` topic: copies of the flow state, from which the next worker goes on.

A copy goes with every commit. It is split into parts that fit a message; a part's key is the group, the
partition, a slot and its number, and copies alternate between two slots: while one is being written, compaction
leaves the one before alone. Every part carries the digest of the whole, so parts of different copies are never
mixed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from producers.bus import Sink
from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties, forbidden, only_of_group, said
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.topics import FLOWS_STATE

Answer = TypeVar("Answer")

PART_BYTES = 900_000
SLOTS = 2
READ_TIMEOUT_S = 60.0
_RETRY_S = 0.2
_TAIL = 8
"""Messages looked at first, from the end; a state of more parts is looked for further back."""


class State(NamedTuple):
    """A copy of a partition's flow state."""

    offset: int
    """Of the first message that the state has not seen."""
    slot: int
    layout: str
    """Digest of the settings it was made with."""
    body: bytes
    """See ``streams.checkpoint.save``."""


class Position(NamedTuple):
    """Where a group is in a partition; -1 where it has not committed."""

    committed: int
    end: int


def write_state(sink: Sink, bus: BusSettings, group: str, partition: int, state: State) -> None:
    """Produce a copy of the state of a partition of ``packets``; the caller flushes."""
    body = state.body
    bodies = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)] or [b""]
    digest = hashlib.sha256(body).digest()
    for part, piece in enumerate(bodies):
        record = {
            "partition": partition,
            "offset": state.offset,
            "layout": state.layout,
            "part": part,
            "parts": len(bodies),
            "digest": digest,
            "body": piece,
        }
        sink.produce(
            topic_name(bus, FLOWS_STATE),
            encode("FlowState", record),
            partition=partition,
            key=f"{group}/{partition}/{state.slot}/{part}",
        )


class StateReader:
    """Reads states back; one connection for all partitions of an assignment."""

    def __init__(self, bus: BusSettings, group: str) -> None:
        self._bus = bus
        self._group = group
        self._topic = topic_name(bus, FLOWS_STATE)
        self._consumer = _consumer(bus, "flowgauge-state-reader")

    def __enter__(self) -> StateReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def positions(self, topic: str, partitions: Iterable[int], group: str = "") -> dict[int, Position]:
        """Return where a consumer group is in each partition of a topic (full name); by default that of the states.

        Raises:
            BusError: the broker does not say.
        """
        asked = [TopicPartition(topic, p) for p in sorted(partitions)]
        if not asked:
            return {}
        consumer = _consumer(self._bus, f"{self._bus.topic_prefix}{group or self._group}")

        def ask() -> dict[int, Position]:
            return {
                tp.partition: Position(
                    max(-1, tp.offset), consumer.get_watermark_offsets(tp, timeout=READ_TIMEOUT_S)[1]
                )
                for tp in consumer.committed(asked, READ_TIMEOUT_S)
            }

        try:
            return _patiently(ask, f"topic {topic}: committed offsets cannot be read")
        finally:
            consumer.close()

    def read(self, partition: int, committed: int) -> State | None:
        """Return the newest whole state of a partition, or None.

        It is looked for from the end, no further back than it takes to find one from ``committed`` on.

        Raises:
            BusError: the topic cannot be read.
        """
        failure = f"topic {self._topic} [{partition}] cannot be read"
        return _patiently(lambda: self._read(partition, committed), failure)

    def _read(self, partition: int, committed: int) -> State | None:
        tp = TopicPartition(self._topic, partition)
        tail = _TAIL
        low, high = self._consumer.get_watermark_offsets(tp, timeout=READ_TIMEOUT_S)
        while True:
            tp.offset = max(low, high - tail)
            state = _newest(self._parts(tp, high))
            if tp.offset == low or (state is not None and state.offset >= committed):
                return state
            tail *= 16

    def _parts(self, start: TopicPartition, end: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (slot, record) of the group's parts from ``start`` to ``end``; other messages are passed over."""
        if start.offset >= end:
            return
        mine = f"{self._group}/{start.partition}/"
        self._consumer.assign([start])
        deadline = time.monotonic() + READ_TIMEOUT_S
        at = start.offset
        # The consumer's own position may still be that of the assignment before.
        while at < end:
            message = self._consumer.poll(0.2)
            if message is None:
                if time.monotonic() > deadline:
                    raise BusError(
                        f"topic {self._topic} [{start.partition}]: not read within {READ_TIMEOUT_S:g} s"
                    )
                continue
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                if only_of_group(error):
                    continue
                raise KafkaException(error)
            at = int(message.offset() or 0) + 1
            key = (message.key() or b"").decode(errors="replace")
            with suppress(CodecError, ValueError):
                if key.startswith(mine):
                    yield int(key[len(mine) :].split("/")[0]), decode("FlowState", message.value() or b"")


def _patiently(step: Callable[[], Answer], failure: str) -> Answer:
    """Return what a step returns; a broker that has just come back first refuses much for a moment."""
    deadline = time.monotonic() + READ_TIMEOUT_S
    while True:
        try:
            return step()
        except KafkaException as error:
            if forbidden(error) or time.monotonic() > deadline:
                raise BusError(f"{failure}: {said(error)}") from error
        time.sleep(_RETRY_S)


def _newest(parts: Iterable[tuple[int, dict[str, Any]]]) -> State | None:
    """Return the whole state with the highest offset; of several, the one written last."""
    copies: dict[tuple[int, int, bytes], dict[int, dict[str, Any]]] = {}
    for slot, record in parts:
        copies.setdefault((record["offset"], slot, record["digest"]), {})[record["part"]] = record
    whole = []
    for (offset, slot, digest), pieces in copies.items():
        body = b"".join(pieces[part]["body"] for part in sorted(pieces))
        if hashlib.sha256(body).digest() == digest:
            whole.append(State(offset, slot, next(iter(pieces.values()))["layout"], body))
    return max(reversed(whole), key=lambda state: state.offset, default=None)


def _consumer(bus: BusSettings, group: str) -> Consumer:
    properties = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 10,
    }
    return Consumer(client_properties(bus, properties))
