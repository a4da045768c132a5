"""The ``flows.state`` topic: where a worker leaves a partition's flow state and the next one finds it.

A state is split into parts that fit a message, keyed by their number, so that compaction keeps the newest of
each. Every part carries the digest of the whole: parts of different states are never mixed.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from producers.bus import Sink
from producers.config import BusSettings, topic_name
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.topics import FLOWS_STATE

PART_BYTES = 900_000
READ_TIMEOUT_S = 60.0


def write_state(sink: Sink, bus: BusSettings, partition: int, offset: int, layout: str, state: bytes) -> None:
    """Produce a partition's state; the caller flushes.

    Args:
        sink: the producer.
        bus: names the topic.
        partition: of the ``packets`` topic, and of the state's.
        offset: of the first message that the state has not seen.
        layout: digest of the settings the state was made with.
        state: see ``streams.checkpoint.save``.
    """
    bodies = [state[at : at + PART_BYTES] for at in range(0, len(state), PART_BYTES)] or [b""]
    digest = hashlib.sha256(state).digest()
    for part, body in enumerate(bodies):
        record = {
            "partition": partition,
            "offset": offset,
            "layout": layout,
            "part": part,
            "parts": len(bodies),
            "digest": digest,
            "body": body,
        }
        sink.produce(
            topic_name(bus, FLOWS_STATE),
            encode("FlowState", record),
            partition=partition,
            key=f"{partition}/{part}",
        )


class StateReader:
    """Reads states back; one connection for all partitions of an assignment."""

    def __init__(self, bus: BusSettings) -> None:
        self._topic = topic_name(bus, FLOWS_STATE)
        self._bootstrap = bus.bootstrap
        self._consumer = Consumer(
            {
                "bootstrap.servers": bus.bootstrap,
                "group.id": "flowgauge-state-reader",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
                **bus.client,
            }
        )

    def __enter__(self) -> StateReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def committed(self, group: str, topic: str, partitions: set[int]) -> dict[int, int]:
        """Return the committed offset of each partition for a group, -1 where there is none."""
        asked = [TopicPartition(topic, p) for p in sorted(partitions)]
        consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": group, "log_level": 0})
        try:
            return {tp.partition: max(-1, tp.offset) for tp in consumer.committed(asked, READ_TIMEOUT_S)}
        except KafkaException as error:
            raise BusError(f"topic {topic}: committed offsets cannot be read: {error.args[0]}") from error
        finally:
            consumer.close()

    def read(self, partition: int) -> tuple[int, bytes] | None:
        """Return (offset, state) of the newest whole state of a partition, or None.

        Raises:
            BusError: the topic cannot be read.
            CodecError: the newest state is incomplete or damaged.
        """
        try:
            parts = self._read_parts(partition)
        except KafkaException as error:
            raise BusError(f"topic {self._topic} [{partition}] cannot be read: {error.args[0]}") from error
        if not parts:
            return None
        last = parts[-1]
        bodies = {p["part"]: p["body"] for p in parts if p["digest"] == last["digest"]}
        state = b"".join(bodies[k] for k in sorted(bodies))
        if hashlib.sha256(state).digest() != last["digest"]:
            found = f"{len(bodies)} of {last['parts']} parts"
            raise CodecError(
                f"topic {self._topic} [{partition}]: the newest flow state is not whole ({found})"
            )
        return last["offset"], state

    def _read_parts(self, partition: int) -> list[dict[str, Any]]:
        tp = TopicPartition(self._topic, partition, OFFSET_BEGINNING)
        low, high = self._consumer.get_watermark_offsets(tp, timeout=READ_TIMEOUT_S)
        if high <= low:
            return []
        self._consumer.assign([tp])
        parts: list[dict[str, Any]] = []
        deadline = time.monotonic() + READ_TIMEOUT_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.2)
            if message is not None:
                if message.error():
                    raise KafkaException(message.error())
                parts.append(decode("FlowState", message.value()))
            position = self._consumer.position([tp])[0].offset
            if position >= high:
                return parts
        raise BusError(f"topic {self._topic} [{partition}]: not read within {READ_TIMEOUT_S:g} s")
