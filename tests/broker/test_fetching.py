"""A flow's own client on a real Kafka: from where it is told to, to the end, and on once a topic is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from faust.types import TP

from infra.broker.topics import create_topics
from producers.bus import BusProducer
from producers.config import BusSettings
from streams.fetching import Fetched, Flow, Record, fetching_client

PATIENCE_S = 60


@asynccontextmanager
async def flow(bus: BusSettings, begin: Mapping[TP, int | None], found: dict[TP, list[Record]]) -> Any:
    """Fetch into ``found`` for as long as the context lasts."""

    def arrived(flow: Flow, what: Fetched | Exception) -> None:
        if isinstance(what, Exception):
            raise what
        flow.took()
        for place, record in what:
            found.setdefault(place, []).append(record)

    connect = partial(fetching_client, bus, f"{bus.topic_prefix}group", 0.1)
    fetching = Flow(bus, connect, begin, arrived)
    try:
        yield fetching
    finally:
        fetching.end()
        await asyncio.to_thread(fetching.join, PATIENCE_S)


async def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture
def bus(bootstrap: str, topic_prefix: str) -> BusSettings:
    return BusSettings(bootstrap=bootstrap, topic_prefix=topic_prefix)


def produce(bus: BusSettings, place: TP, messages: int) -> None:
    sink = BusProducer(bus)
    assert sink.connect()
    for number in range(messages):
        sink.produce(place.topic, b"%d" % number * 1000, place.partition)
    assert not sink.flush(PATIENCE_S)


def test_all_that_is_behind_the_first_offset_comes_once(bus: BusSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}packets"
    create_topics(bus.bootstrap, {topic: (3, {})})
    first, second, silent = (TP(topic, number) for number in range(3))
    produce(bus, first, 3000)
    produce(bus, second, 100)
    found: dict[TP, list[Record]] = {}

    async def run() -> None:
        async with flow(bus, {first: 40, second: None, silent: 0}, found) as fetching:
            await until(lambda: found.get(first, [None])[-1] and found[first][-1].offset == 2999)
            await until(lambda: len(found.get(second, [])) == 100)
            await until(lambda: fetching.end_offset(silent) == 0)
            assert (fetching.end_offset(first), fetching.end_offset(second)) == (3000, 100)
            produce(bus, second, 1)
            await until(lambda: len(found[second]) == 101)
            assert fetching.end_offset(second) == 101

    asyncio.run(run())
    assert [record.offset for record in found[first]] == list(range(40, 3000))
    assert [record.value for record in found[second]] == [b"%d" % n * 1000 for n in (*range(100), 0)]
    assert abs(found[second][-1].time_ms / 1e3 - time.time()) < PATIENCE_S
    assert silent not in found


def test_an_offset_that_the_broker_no_longer_has_is_the_first_it_has(
    bus: BusSettings, topic_prefix: str
) -> None:
    topic = f"{topic_prefix}packets"
    create_topics(bus.bootstrap, {topic: (1, {})})
    place = TP(topic, 0)
    produce(bus, place, 5)
    found: dict[TP, list[Record]] = {}

    async def run() -> None:
        async with flow(bus, {place: 900}, found):
            await until(lambda: len(found.get(place, [])) == 5)

    asyncio.run(run())
    assert [record.offset for record in found[place]] == list(range(5))


def test_a_topic_that_is_not_there_is_told_once_and_read_when_it_comes(
    bus: BusSettings, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    # So that librdkafka does not wait half a minute for a topic that may only be new.
    quick = {"topic.metadata.propagation.max.ms": "100", "topic.metadata.refresh.interval.ms": "500"}
    bus = bus.model_copy(update={"client": {**quick, "allow.auto.create.topics": "false"}})
    place = TP(f"{topic_prefix}packets", 0)
    found: dict[TP, list[Record]] = {}

    async def run() -> None:
        async with flow(bus, {place: None}, found):
            await until(lambda: caplog.records)
            create_topics(bus.bootstrap, {place.topic: (1, {})})
            produce(bus, place, 3)
            await until(lambda: len(found.get(place, [])) == 3)

    with caplog.at_level(logging.WARNING, "flowgauge"):
        asyncio.run(run())
    assert len(caplog.records) == 1 and place.topic in caplog.records[0].getMessage()
