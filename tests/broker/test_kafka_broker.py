"""The broker that `infra` starts: it is Kafka, it keeps its data, and it goes when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from infra.broker.kafka import KafkaBroker
from infra.broker.topics import create_topics
from schemas.errors import BusError
from schemas.topics import TOPICS
from tests.waiting import wait_until

MakeTopics = Callable[..., dict[str, str]]

ROOT = Path(__file__).resolve().parents[2]


def produce(bootstrap: str, topic: str, values: list[bytes], partition: int = 0) -> None:
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error:
            failed.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, partition=partition, on_delivery=delivered)
    assert producer.flush(30) == 0
    assert failed == []


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """Return the first ``count`` values of a partition, fewer when they do not come within 30 s."""
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "reader",
        "enable.auto.commit": False, "auto.offset.reset": "error",
    })  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, 0)])
    read: list[bytes] = []
    deadline = time.monotonic() + 30
    try:
        while len(read) < count and time.monotonic() < deadline:
            for message in consumer.consume(count - len(read), timeout=1):
                assert message.error() is None
                read.append(message.value())
    finally:
        consumer.close()
    return read


def test_confluent_reads_what_it_wrote(bootstrap: str, make_topics: MakeTopics) -> None:
    topic = make_topics(2, "packets")["packets"]
    produce(bootstrap, topic, [b"a", b"b"], partition=0)
    produce(bootstrap, topic, [b"c"], partition=1)
    assert consume(bootstrap, topic, 2, partition=0) == [b"a", b"b"]
    assert consume(bootstrap, topic, 1, partition=1) == [b"c"]


def test_aiokafka_reads_and_commits(bootstrap: str, make_topics: MakeTopics, topic_prefix: str) -> None:
    topic = make_topics(1, "labels")["labels"]

    async def run() -> tuple[list[bytes], int | None]:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
        await producer.start()
        for number in range(5):
            await producer.send_and_wait(topic, str(number).encode())
        await producer.stop()
        consumer = AIOKafkaConsumer(
            topic, bootstrap_servers=bootstrap, group_id=f"{topic_prefix}group",
            auto_offset_reset="earliest", enable_auto_commit=False,
        )  # fmt: skip
        await consumer.start()
        try:
            values = [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(5)]
            await consumer.commit()
            (assigned,) = consumer.assignment()
            return values, await consumer.committed(assigned)
        finally:
            await consumer.stop()

    assert asyncio.run(run()) == ([b"0", b"1", b"2", b"3", b"4"], 5)


def test_the_projects_topics_get_their_partitions_and_settings(bootstrap: str, topic_prefix: str) -> None:
    wanted = {topic_prefix + topic.name: (topic.partitions(3), topic.config) for topic in TOPICS}
    create_topics(bootstrap, wanted)
    create_topics(bootstrap, wanted)  # what exists already is fine
    admin = AdminClient({"bootstrap.servers": bootstrap})
    listed = admin.list_topics(timeout=10).topics
    for name, (partitions, config) in wanted.items():
        assert len(listed[name].partitions) == partitions
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        effective = admin.describe_configs([resource])[resource].result(timeout=10)
        assert {key: effective[key].value for key in config} == dict(config)


def test_a_refused_topic_is_named(bootstrap: str, topic_prefix: str) -> None:
    with pytest.raises(BusError, match=f"cannot create topic {topic_prefix}bad: .*nonsense"):
        create_topics(bootstrap, {f"{topic_prefix}bad": (1, {"nonsense": "1"})})


def test_an_absent_broker_is_named() -> None:
    with pytest.raises(BusError, match=r"127\.0\.0\.1:1: cannot create topic packets"):
        create_topics("127.0.0.1:1", {"packets": (1, {})}, timeout_s=1)


def test_topics_do_not_spring_up(broker: KafkaBroker, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topic = admin.list_topics(f"{topic_prefix}typo", timeout=10).topics[f"{topic_prefix}typo"]
    assert topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART


@pytest.mark.parametrize("crash", [False, True], ids=["restart", "crash"])
def test_data_outlives_the_broker(broker: KafkaBroker, make_topics: MakeTopics, crash: bool) -> None:
    topic = make_topics(1, "packets")["packets"]
    values = [str(number).encode() * 100 for number in range(200)]
    address, pid = broker.bootstrap, broker.pid
    produce(address, topic, values[:100])
    if crash:
        broker.kill()
        assert broker.pid is None
    broker.restart()
    assert broker.bootstrap == address
    assert broker.pid not in (None, pid)
    produce(address, topic, values[100:])
    assert consume(address, topic, 200) == values


def test_a_given_directory_is_used_again(broker: KafkaBroker, tmp_path: Path) -> None:
    with KafkaBroker(data_dir=tmp_path / "data") as first:
        create_topics(first.bootstrap, {"kept": (1, {})})
        produce(first.bootstrap, "kept", [b"value"])
    with KafkaBroker(data_dir=tmp_path / "data") as second:
        assert consume(second.bootstrap, "kept", 1) == [b"value"]


def test_a_failing_start_shows_the_log(broker: KafkaBroker) -> None:
    with KafkaBroker() as other:
        other.kill()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", other.port))
            taken.listen()
            with pytest.raises(
                BusError, match=r"(?s)ended while starting:\n.*Address already in use"
            ) as caught:
                other.restart()
    assert "\tat " not in str(caught.value)


def test_another_clusters_directory_is_refused(broker: KafkaBroker, tmp_path: Path) -> None:
    topics = tmp_path / "topics"
    topics.mkdir()
    (topics / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=1\n", encoding="utf-8")
    with pytest.raises(BusError, match=r"could not be formatted:\n.*Invalid cluster\.id") as caught:
        KafkaBroker(data_dir=tmp_path).start()
    assert len(str(caught.value).splitlines()) == 2


def test_a_taken_port_is_named(broker: KafkaBroker) -> None:
    with pytest.raises(BusError, match=f"port {broker.port} of 127.0.0.1 cannot be used"):
        KafkaBroker(port=broker.port).start()


_FIRST_COMPILER = "-XX:TieredStopAtLevel=1"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the broker dies with its parent on Linux only")
def test_the_broker_dies_with_its_parent(broker: KafkaBroker) -> None:
    program = (
        "from infra.broker.kafka import KafkaBroker\n"
        "broker = KafkaBroker().start()\n"
        "print(broker.pid, broker.data_dir, flush=True)\n"
        "input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid_text, data_dir = parent.stdout.readline().split()
    try:
        assert _runs(int(pid_text))
        parent.kill()
        parent.wait(10)
        wait_until(lambda: not _runs(int(pid_text)), 20)
    finally:
        parent.communicate()
        subprocess.run(["rm", "-r", data_dir], check=True)


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_by_hand(kind: str, broker: KafkaBroker, tmp_path: Path) -> None:
    address = tmp_path / "bootstrap.txt"
    command = [sys.executable, "-m", "infra.broker", kind, "--partitions", "3", "--file", str(address)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        wait_until(lambda: address.exists() or process.poll() is not None, 60)
        bootstrap = address.read_text().strip()
        if kind == "kafka":  # it may run for days, unlike the one of the tests
            (java,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert _FIRST_COMPILER not in Path(f"/proc/{java}/cmdline").read_text()
            assert _FIRST_COMPILER in Path(f"/proc/{broker.pid}/cmdline").read_text()
        listed = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert {topic.name: topic.partitions(3) for topic in TOPICS}.items() <= {
        name: len(topic.partitions) for name, topic in listed.items()
    }.items()
    assert f"bootstrap: {bootstrap}\n" in out
    assert (process.returncode, err) == (0, "")
    assert not address.exists()
