"""Faust on a real Kafka: what the flows agent builds on. Nothing of this project runs here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

MakeTopics = Callable[..., dict[str, str]]


@dataclass
class Worker:
    """A worker process and the log it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def events(self, *what: str) -> list[dict[str, Any]]:
        lines = self.log.read_text(encoding="utf-8").split("\n")[:-1] if self.log.exists() else []
        rows = [json.loads(line) for line in lines]
        return [row for row in rows if row["what"] in what] if what else rows

    def values(self) -> list[str]:
        return [row["value"] for row in self.events("event")]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass
class Cluster:
    """A topic of two partitions on the session's broker, a group that reads it, and its workers."""

    bootstrap: str
    topic: str
    group: str
    folder: Path
    workers: list[Worker] = field(default_factory=list)

    def worker(self, event_s: float = 0) -> Worker:
        name = f"worker{len(self.workers)}"
        command = [sys.executable, "-m", "tests.broker.faust_worker", self.bootstrap, self.group, self.topic]
        with (self.folder / f"{name}.err").open("wb") as errors:
            process = subprocess.Popen(
                [*command, str(self.folder / name), str(event_s)], cwd=ROOT, stdout=errors, stderr=errors
            )
        self.workers.append(Worker(process, self.folder / name))
        return self.workers[-1]

    def produce(self, values: range) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for value in values:
            producer.produce(self.topic, str(value).encode(), partition=value % 2)
        assert producer.flush(30) == 0

    def committed(self) -> list[int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            asked = [TopicPartition(self.topic, partition) for partition in range(2)]
            return [found.offset for found in consumer.committed(asked, timeout=10)]
        finally:
            consumer.close()


@pytest.fixture
def cluster(bootstrap: str, make_topics: MakeTopics, topic_prefix: str, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(bootstrap, make_topics(2, "packets")["packets"], f"{topic_prefix}flows", tmp_path)
    yield made
    for worker in made.workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(10)


def test_every_message_is_seen_and_a_restart_goes_on(cluster: Cluster) -> None:
    cluster.produce(range(200))
    first = cluster.worker()
    wait_until(lambda: len(first.values()) >= 200, 60)
    assert first.stop() == 0
    assert sorted(map(int, first.values())) == list(range(200))
    assert cluster.committed() == [100, 100]

    cluster.produce(range(200, 250))
    second = cluster.worker()
    wait_until(lambda: len(second.values()) >= 50, 60)
    assert second.stop() == 0
    assert sorted(map(int, second.values())) == list(range(200, 250))
    assert cluster.committed() == [125, 125]


def test_a_killed_workers_uncommitted_messages_come_again(cluster: Cluster) -> None:
    cluster.produce(range(100))
    first = cluster.worker(event_s=0.02)  # and no commit on its own
    wait_until(lambda: len(first.values()) >= 20, 60)
    first.process.kill()
    first.process.wait(10)
    second = cluster.worker()
    wait_until(lambda: len(second.values()) >= 100, 60)
    assert second.stop() == 0
    assert sorted(map(int, second.values())) == list(range(100))
    assert cluster.committed() == [50, 50]


def test_a_stop_hands_over_after_the_last_event_and_before_the_commit(cluster: Cluster) -> None:
    cluster.produce(range(100))
    worker = cluster.worker(event_s=0.2)
    wait_until(lambda: len(worker.events("done")) >= 4, 60)
    assert worker.stop() == 0
    order = [row["what"] for row in worker.events()]
    assert order[:3] == ["load", "loaded", "event"]
    assert order[-3:] == ["done", "hand over", "handed over"]
    done = Counter(row["partition"] for row in worker.events("done"))
    assert cluster.committed() == [done[0], done[1]]


def test_a_rebalance_hands_each_partition_over_without_repeating_an_event(cluster: Cluster) -> None:
    cluster.produce(range(80))
    old = cluster.worker(event_s=0.1)
    wait_until(lambda: len(old.values()) >= 10, 60)
    new = cluster.worker(event_s=0.1)
    wait_until(lambda: len(old.events("done")) + len(new.events("done")) >= 80, 90)

    seen = Counter((row["partition"], row["offset"]) for w in (old, new) for row in w.events("event"))
    assert seen == Counter({(partition, offset): 1 for partition in (0, 1) for offset in range(40)})
    (given,) = old.events("handed over")
    for worker, loads in ((old, 2), (new, 1)):
        load = worker.events("load")
        assert [len(row["partitions"]) for row in load] == [2, 1][-loads:]
        assert given["time"] < load[-1]["time"]
        after = [row["what"] for row in worker.events() if row["time"] >= load[-1]["time"]]
        assert after[:3] == ["load", "loaded", "event"]
    assert old.stop() == 0
    assert new.stop() == 0
    assert cluster.committed() == [40, 40]
