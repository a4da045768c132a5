"""The topic ``models``: which version of each model is live, told by whoever publishes one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from models.packet.card import NAME_PATTERN, ModelCard
from producers.bus import Sink
from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties, only_of_group
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.topics import MODELS

FLUSH_TIMEOUT_S = 30.0
_TOLD = ("parameters", "data", "split", "scores", "cost", "created")
"""What of the card goes onto the bus."""
_MOST_CARD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Announcement:
    """That a version of a model is live; or, without a version, that no version is any more."""

    name: str
    version: str
    sha256: str = ""
    kind: str = ""
    classes: tuple[str, ...] = ()
    published_time_ns: int = 0
    problem: str = ""
    """Why the message is no announcement, where it is none."""


def announcement(card: ModelCard, place: str, now_ns: int) -> dict[str, Any]:
    """Return the ``ModelVersion`` record of a published model."""
    told = card.model_dump(mode="json", include=set(_TOLD))
    text = json.dumps(told, ensure_ascii=False)
    if len(text.encode()) > _MOST_CARD_BYTES:  # a message is small; the card lies beside the model
        text = json.dumps({"parameters": card.parameters, "created": card.created})
    return {
        "schema_version": 1,
        "name": card.name,
        "version": card.version,
        "kind": card.kind,
        "classes": list(card.classes),
        "uri": place,
        "sha256": card.sha256,
        "card": text,
        "created_ns": _ns(card.created),
        "published_time_ns": now_ns,
    }


def _ns(iso: str) -> int:
    """Return an ISO 8601 time in ns since the epoch, 0 for what is none."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return 0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0, round(when.timestamp() * 1e6)) * 1000


def announce(card: ModelCard, place: str, bus: BusSettings, sink: Sink) -> None:
    """Tell everyone that a published model is live.

    Raises:
        BusError: the broker does not take it.
    """
    record = encode("ModelVersion", announcement(card, place, time.time_ns()))
    sink.produce(topic_name(bus, MODELS), record, partition=0, key=card.name)
    if sink.flush(FLUSH_TIMEOUT_S):
        raise BusError(f"bus {bus.bootstrap}: the announcement of {card.title} was not acknowledged")
    sink.check()


def parse(key: bytes | None, value: bytes | None) -> Announcement:
    """Return what a message of the topic says; one that cannot be used says why in ``problem``."""
    name = (key or b"").decode(errors="replace")
    if not value:
        return Announcement(name, "")
    try:
        record = decode("ModelVersion", value)
    except CodecError as error:
        return Announcement(name, "?", problem=str(error))
    for text in (record["name"], record["version"]):
        if not re.match(NAME_PATTERN, text):
            return Announcement(name, "?", problem=f"{text[:60]!r} is no name for a model or version")
    return Announcement(
        record["name"],
        record["version"],
        record["sha256"],
        record["kind"],
        tuple(record["classes"]),
        record["published_time_ns"],
    )


class AnnouncementReader:
    """Reads the topic from its beginning, and then what comes; a context manager."""

    def __init__(self, bus: BusSettings) -> None:
        self._topic = topic_name(bus, MODELS)
        properties: dict[str, Any] = {
            # Never joined: offsets are assigned here and not committed.
            "group.id": f"{bus.topic_prefix}flowgauge-models-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
        try:
            self._consumer = Consumer(client_properties(bus, properties))
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
        except KafkaException as error:
            raise BusError(f"topic {self._topic} cannot be read: {error.args[0].str()}") from None
        self.at_end = False
        """Whether everything that was on the topic has been read."""

    def poll(self, timeout_s: float) -> Announcement | None:
        """Return the next announcement, None where there is none in time."""
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        error = message.error()
        if error is None:
            self.at_end = False
            return parse(message.key(), message.value())
        if error.code() == KafkaError._PARTITION_EOF:
            self.at_end = True
        elif (
            not error.retriable()
            and not only_of_group(error)
            and error.code() != KafkaError._ALL_BROKERS_DOWN
        ):
            raise BusError(f"topic {self._topic} cannot be read: {error.str()}")
        return None

    def all(self, timeout_s: float) -> Iterator[Announcement]:
        """Yield what is on the topic now, oldest first.

        Raises:
            BusError: it cannot be read in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.at_end:
            if time.monotonic() > deadline:
                raise BusError(f"topic {self._topic} was not read to its end within {timeout_s:g} s")
            found = self.poll(0.1)
            if found is not None:
                yield found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()
