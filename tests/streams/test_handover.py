"""States on the ``flows.state`` topic of a bus: written in parts, the newest whole one found again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.broker.embedded import EmbeddedBroker
from producers.bus import BusProducer
from producers.config import BusSettings
from schemas.codec import encode
from schemas.errors import BusError
from streams import handover
from streams.agent import FlowsAgent
from streams.faust_app import Message
from streams.handover import PART_BYTES, Position, State, StateReader, write_state
from tests.producers.fakes import FakeSink
from tests.streams.made import START_NS, Made, batch, brisk

GROUP = "flowgauge-flows"
BIG = random.Random(0).randbytes(2 * PART_BYTES + 5)


@pytest.fixture
def bus(embedded: EmbeddedBroker) -> BusSettings:
    features = (f"features.{representation.name}" for representation in brisk().representations)
    for name in ("flows.state", "packets", "telemetry.cost", *features):
        embedded.create_topic(name, 4)
    return BusSettings(bootstrap=embedded.bootstrap, partitions=4)


@pytest.fixture
def producer(bus: BusSettings) -> Iterator[BusProducer]:
    made = BusProducer(bus)
    made.connect()
    yield made
    made.flush(10)


def write(producer: BusProducer, *states: State, group: str = GROUP, partition: int = 1) -> None:
    for state in states:
        write_state(producer, producer.settings, group, partition, state)
    assert producer.flush(10) == 0


def read(bus: BusSettings, committed: int = 0, partition: int = 1) -> State | None:
    with StateReader(bus, GROUP) as reader:
        return reader.read(partition, committed)


def test_a_state_larger_than_a_message_comes_back(bus: BusSettings, producer: BusProducer) -> None:
    sink = FakeSink()
    state = State(5, 1, "layout", BIG)
    write_state(sink, bus, GROUP, 1, state)
    assert [message.key for message in sink.messages] == [f"{GROUP}/1/1/{part}" for part in range(3)]
    assert max(len(message.value) for message in sink.messages) < 1_000_000
    write(producer, state)
    assert read(bus) == state
    assert read(bus, partition=2) is None


@pytest.mark.parametrize("body", [b"", b"x", BIG[:PART_BYTES], BIG[: PART_BYTES + 1]])
def test_a_state_of_any_size_comes_back(bus: BusSettings, producer: BusProducer, body: bytes) -> None:
    write(producer, State(5, 0, "layout", body))
    assert read(bus) == State(5, 0, "layout", body)


def test_the_newest_whole_state_counts(bus: BusSettings, producer: BusProducer) -> None:
    old, new = State(5, 0, "a", BIG), State(9, 1, "b", BIG[::-1])
    write(producer, old, new)
    assert read(bus) == new
    cut = FakeSink()
    write_state(cut, bus, GROUP, 1, State(12, 0, "c", BIG[1:]))
    for message in cut.messages[:2]:
        producer.produce(message.topic, message.value, message.partition, message.key)
    producer.flush(10)
    assert read(bus, committed=9) == new
    late = State(7, 0, "d", b"a worker that had been thought dead")
    write(producer, late)
    assert read(bus, committed=9) == new
    again = State(9, 0, "e", b"flows closed by silence since")
    write(producer, again)
    assert read(bus, committed=9) == again


def test_what_is_not_the_groups_state_is_passed_over(bus: BusSettings, producer: BusProducer) -> None:
    mine = State(5, 0, "layout", b"mine")
    write(producer, mine)
    write(producer, State(90, 0, "layout", b"theirs"), group="other")
    lying = {"partition": 1, "offset": 99, "layout": "", "part": 0, "parts": 1, "body": b"damaged"}
    producer.produce(
        "flows.state",
        encode("FlowState", {**lying, "digest": hashlib.sha256(b"").digest()}),
        1,
        f"{GROUP}/1/0/0",
    )
    for key in (None, "", f"{GROUP}/1/x/0", f"{GROUP}/1/0/0"):
        producer.produce("flows.state", b"rubbish", 1, key)
    producer.flush(10)
    assert read(bus) == mine


def test_it_is_looked_for_as_far_back_as_it_takes(bus: BusSettings, producer: BusProducer) -> None:
    wanted = State(500, 0, "layout", b"far back")
    write(producer, wanted, *(State(offset, offset % 2, "layout", b"older") for offset in range(200)))
    assert read(bus, committed=500) == wanted
    found = read(bus, committed=100)
    assert found is not None
    assert found.offset == 199


def test_positions_are_those_of_the_group(bus: BusSettings, producer: BusProducer) -> None:
    for _ in range(6):
        producer.produce("packets", b"x", 2)
    producer.flush(10)
    consumer = Consumer({"bootstrap.servers": bus.bootstrap, "group.id": GROUP})
    consumer.commit(offsets=[TopicPartition("packets", 2, 4)], asynchronous=False)
    consumer.close()
    with StateReader(bus, GROUP) as reader:
        assert reader.positions("packets", [2, 3]) == {2: Position(4, 6), 3: Position(-1, 0)}
        assert reader.positions("packets", []) == {}


def test_an_absent_bus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "READ_TIMEOUT_S", 0.5)
    with StateReader(BusSettings(bootstrap="127.0.0.1:1"), GROUP) as reader:
        with pytest.raises(BusError, match=r"topic flows.state \[1\] cannot be read"):
            reader.read(1, 0)
        with pytest.raises(BusError, match="topic packets: committed offsets cannot be read"):
            reader.positions("packets", [1])


def test_an_agent_goes_on_from_what_another_left(bus: BusSettings, producer: BusProducer) -> None:
    first, second = (FlowsAgent(brisk(), bus, producer) for _ in range(2))
    first.on_assigned({"packets": {0, 1}})
    value = batch([Made(START_NS)], partition=1).encode()
    producer.produce("packets", value, 1)
    first.on_message(Message("packets", 1, 0, None, value))
    first.hand_over()
    second.on_assigned({"packets": {0, 1}})
    assert second.counts()["states_restored"] == 1
    assert second.next_offset == {1: 1}
    assert (second.partitions[0].active, second.partitions[1].active) == (0, 1)
    assert (first.counts()["packets"], second.counts()["packets"]) == (1, 0)
