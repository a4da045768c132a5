"""Flows workers as processes on a real broker, what they are fed, and what they make of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.broker.topics import create_topics
from producers.config import BusSettings, ReplaySettings
from producers.probes import parse_probes
from producers.replay import Replay, ReplayOptions
from schemas.codec import decode
from schemas.features import FeatureBatch, decode_feature_batch
from schemas.topics import TOPICS
from streams.config import StreamsSettings
from streams.offline import run_offline
from tests.broker.forked import Forked
from tests.producers.fakes import FakeSink
from tests.streams.made import Row, rows_of
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 4
GROUP = "flowgauge-flows"
# Nothing falls silent by accident on a busy machine; a dead worker is found out as early as Kafka allows.
SETTINGS = {"silence_s": 600, "session_timeout_s": 6, "commit_interval_s": 0.2}

Message = tuple[int, bytes]


@cache
def messages(capture: str, batch_packets: int, probe: str = "gate") -> tuple[Message, ...]:
    """Return (partition, packet batch) of a capture, in the order a replay sends them."""
    sink = FakeSink()
    bus = BusSettings(partitions=PARTITIONS)
    settings = ReplaySettings(rebase="keep", batch_packets=batch_packets, telemetry_interval_s=0)
    Replay(parse_probes([capture], [probe]), bus, ReplayOptions(speed=None, settings=settings), sink).run()
    return tuple((m.partition or 0, m.value) for m in sink.messages)


@cache
def offline_rows(capture: str, probe: str = "gate", **settings: Any) -> Counter[Row]:
    """Return every row that the same core makes of a capture without a bus."""
    batches: list[FeatureBatch] = []
    run_offline(
        [capture], StreamsSettings(**settings), partitions=PARTITIONS, probe=probe, on_batch=batches.append
    )
    return Counter(rows_of(batches))


@dataclass
class Worker:
    """A ``flowgauge streams`` process."""

    process: subprocess.Popen[bytes] | Forked
    out: Path
    err: Path

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    @property
    def counters(self) -> Counter[str]:
        """What it counted, once it has stopped."""
        return Counter(json.loads(self.out.read_text(encoding="utf-8"))["counters"])

    @property
    def told(self) -> list[str]:
        """The lines on its stderr."""
        return self.err.read_text(encoding="utf-8").splitlines()


@dataclass
class Flows:
    """Topics and a group of flows workers of their own on a broker."""

    bootstrap: str
    prefix: str
    folder: Path
    workers: list[Worker] = field(default_factory=list)
    forked: bool = False
    """Whether workers are forked from a process that is warm, not started as a user would."""

    @property
    def bus(self) -> BusSettings:
        return BusSettings(bootstrap=self.bootstrap, partitions=PARTITIONS, topic_prefix=self.prefix)

    def create_topics(self) -> None:
        topics = {self.prefix + t.name: (t.partitions(PARTITIONS), t.config) for t in TOPICS}
        create_topics(self.bootstrap, topics)

    def start(self, *more: str, **settings: Any) -> Worker:
        """Start a worker; ``settings`` are of the section streams, ``more`` are other settings, KEY=VALUE."""
        given = (f"streams.{key}={value}" for key, value in {**SETTINGS, **settings}.items())
        return self.run("streams", *more, *given)

    def run(self, command: str, *settings: str, script: str = "") -> Worker:
        """Start ``flowgauge COMMAND``, a worker, on this bus, with settings, KEY=VALUE; or a script like it."""
        given = [f"bus.topic_prefix={self.prefix}", f"bus.partitions={PARTITIONS}", *settings]
        arguments = [*command.split(), "--json", "--bus", self.bootstrap]
        arguments += [word for setting in given for word in ("--set", setting)]
        out, err = (self.folder / f"worker{len(self.workers)}.{kind}" for kind in ("out", "err"))
        if self.forked and not script:
            self.workers.append(Worker(Forked(arguments, out, err), out, err))
            return self.workers[-1]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *(("-c", script) if script else ("-m", "flowgauge")), *arguments],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        self.workers.append(Worker(process, out, err))
        return self.workers[-1]

    def end(self) -> None:
        """Kill the workers that still run."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()

    def wait_members(self, members: int) -> None:
        """Wait until the group is settled with so many workers."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        group = f"{self.prefix}{GROUP}"

        def settled() -> bool:
            try:
                found = admin.describe_consumer_groups([group], request_timeout=1)[group].result(2)
            except (KafkaException, TimeoutError):  # no such group yet, or its coordinator is starting
                return False
            return found.state.name == "STABLE" and len(found.members) == members

        wait_until(settled, 60)

    def produce(self, batches: Iterable[Message], pause_s: float = 0) -> None:
        """Produce batches in this order; ``pause_s`` comes after every ten."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "enable.idempotence": True})
        for sent, (partition, value) in enumerate(batches, 1):
            producer.produce(f"{self.prefix}packets", value, partition=partition)
            if pause_s and sent % 10 == 0:
                producer.poll(0)
                time.sleep(pause_s)
        assert producer.flush(60) == 0

    @contextmanager
    def feeding(self, batches: Sequence[Message], seconds: float) -> Iterator[None]:
        """Produce batches evenly over a time, in the background."""
        thread = Thread(target=self.produce, args=(batches, seconds * 10 / len(batches)))
        thread.start()
        try:
            yield
        finally:
            thread.join(seconds + 60)

    def committed(self) -> list[int]:
        consumer = self._consumer(f"{self.prefix}{GROUP}")
        try:
            asked = [TopicPartition(f"{self.prefix}packets", partition) for partition in range(PARTITIONS)]
            return [max(0, found.offset) for found in consumer.committed(asked, timeout=10)]
        except KafkaException:  # the coordinator is starting
            return []
        finally:
            consumer.close()

    def moved_past(self, before: int) -> bool:
        """Return whether the group has committed more than ``before``."""
        return sum(self.committed()) > before

    def ends(self, topic: str = "packets", partitions: int = PARTITIONS) -> list[int]:
        consumer = self._consumer("unused")
        try:
            where = [TopicPartition(self.prefix + topic, partition) for partition in range(partitions)]
            return [consumer.get_watermark_offsets(tp, timeout=10)[1] for tp in where]
        finally:
            consumer.close()

    def wait_done(self, timeout_s: float = 60) -> None:
        """Wait until everything on ``packets`` is committed, so all that is made of it is on the bus."""
        ends = self.ends()
        wait_until(lambda: self.committed() == ends, timeout_s)

    def read(self, topic: str) -> list[bytes]:
        """Return the messages of a topic."""
        partitions = 1 if topic in ("dead-letters", "telemetry.cost") else PARTITIONS
        ends = self.ends(topic, partitions)
        consumer = self._consumer("unused")
        consumer.assign([TopicPartition(self.prefix + topic, p, 0) for p in range(partitions)])
        out: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(out) < sum(ends) and time.monotonic() < deadline:
            for message in consumer.consume(500, timeout=0.2):
                assert message.error() is None
                out.append(message.value() or b"")
        consumer.close()
        assert len(out) >= sum(ends)
        return out

    def rows(self) -> Counter[Row]:
        """Return how often each row is on the feature topics."""
        found: Counter[Row] = Counter()
        for name in ("early", "window", "flow"):
            found.update(rows_of(decode_feature_batch(value) for value in self.read(f"features.{name}")))
        return found

    def telemetry(self) -> list[dict[str, Any]]:
        return [decode("CostTelemetry", value) for value in self.read("telemetry.cost")]

    def _consumer(self, group: str) -> Consumer:
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0})
