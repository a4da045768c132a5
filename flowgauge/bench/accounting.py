"""Reads what a run left on the bus and holds it against what was sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties
from schemas.errors import BusError
from schemas.features import decode_feature_batch
from schemas.packets import decode_packet_batch
from schemas.topics import DEAD_LETTERS, PACKETS

READ_TIMEOUT_S = 120.0
_TRY_S = 10.0
_RETRY_S = 0.1


class BusReader:
    """Reads topics from their beginning to their present end, and the progress of consumer groups."""

    def __init__(self, bus: BusSettings, group: str = "flowgauge-bench") -> None:
        self._bus = bus
        self._consumer = Consumer(client_properties(bus, {"enable.auto.commit": False, "group.id": group}))

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def end(self, topic: str, partition: int) -> int:
        """Return the offset behind the last message of a partition."""
        where = TopicPartition(topic_name(self._bus, topic), partition)
        found = self._ask(topic, lambda: self._consumer.get_watermark_offsets(where, timeout=_TRY_S))
        return int(found[1])

    def committed(self, topic: str, partitions: int) -> list[int]:
        """Return this reader's group's committed offset of each partition, 0 where it has none."""
        wanted = [TopicPartition(topic_name(self._bus, topic), number) for number in range(partitions)]
        found = self._ask(topic, lambda: self._consumer.committed(wanted, timeout=_TRY_S))
        return [max(0, place.offset) for place in found]

    def _ask(self, topic: str, question: Callable[[], Any]) -> Any:
        """Ask the broker, again while it is not ready: a topic just made has no leader for a moment."""
        deadline = time.monotonic() + _TRY_S
        while True:
            try:
                return question()
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise BusError(
                        f"offsets of topic {topic} cannot be read: {error.args[0].str()}"
                    ) from error
                time.sleep(_RETRY_S)

    def read(self, topic: str, partition: int, limit: int | None = None) -> Iterator[bytes]:
        """Yield the messages of a partition up to its end now, or the first ``limit`` of them."""
        end = self.end(topic, partition)
        end = end if limit is None else min(end, limit)
        if not end:
            return
        self._consumer.assign([TopicPartition(topic_name(self._bus, topic), partition, 0)])
        deadline, offset = time.monotonic() + READ_TIMEOUT_S, -1
        while offset < end - 1:
            if time.monotonic() > deadline:
                raise BusError(f"topic {topic} [{partition}]: read no further than {offset + 1} of {end}")
            for message in self._consumer.consume(500, timeout=0.2):
                if message.error():
                    raise BusError(f"topic {topic} [{partition}]: {message.error().str()}")
                offset = message.offset()
                if offset < end:
                    yield message.value()


@dataclass(frozen=True)
class Books:
    """What was sent, and what became of it as each hop tells it."""

    sent: int
    """Packets the replay handed over."""
    acked: int
    """Packets the broker acknowledged."""
    counted: int
    """Packets the worker folded in."""
    in_flow_records: int
    """Packets in the rows of ``features.flow``."""
    missing: int
    """Batches that the sequence numbers tell are missing."""
    duplicate: int
    """Packets of batches that came twice."""
    dead_letters: int

    @property
    def balanced(self) -> bool:
        """Return whether every packet sent is in exactly one flow record and nothing else happened."""
        same = {self.sent, self.acked, self.counted, self.in_flow_records}
        return len(same) == 1 and not (self.missing or self.duplicate or self.dead_letters)

    def as_dict(self) -> dict[str, Any]:
        """Return the books as ``--json`` shows them."""
        return {**self.__dict__, "balanced": self.balanced}


def books(reader: BusReader, bus: BusSettings, sent: int, acked: int, counters: Mapping[str, int]) -> Books:
    """Hold the replay's summary, the worker's counters and the flow records against each other.

    Args:
        reader: reads the topics.
        bus: tells the partitions.
        sent: packets the replay sent.
        acked: packets that were acknowledged to it.
        counters: what the worker printed at its end.
    """
    packets = 0
    for partition in range(bus.partitions):
        for value in reader.read("features.flow", partition):
            columns = decode_feature_batch(value).columns
            packets += int(columns["packets_fwd"].sum()) + int(columns["packets_rev"].sum())
    return Books(
        sent=sent,
        acked=acked,
        counted=counters.get("packets", 0),
        in_flow_records=packets,
        missing=counters.get("batches_missing", 0),
        duplicate=counters.get("packets_duplicate", 0),
        dead_letters=reader.end(DEAD_LETTERS, 0),
    )


def first_sent_ns(reader: BusReader, bus: BusSettings) -> int:
    """Return the wall clock at which the first packet batch left the replay, ns since the epoch."""
    times = [
        decode_packet_batch(value).sent_time_ns
        for partition in range(bus.partitions)
        for value in reader.read(PACKETS, partition, limit=1)
    ]
    if not times:
        raise BusError("nothing reached the topic of packets")
    return min(times)
