"""What a client fetches reaches the event loop: in order, bounded, and no error of the bus is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import pytest
from confluent_kafka import OFFSET_BEGINNING, TIMESTAMP_CREATE_TIME, KafkaError, KafkaException
from faust.types import TP

from producers.config import BusSettings
from schemas.errors import BusError, FlowgaugeError, SettingsError
from streams.fetching import FETCHED_MESSAGES, FETCHES_AHEAD, Fetched, Flow, OnError, Record, fetching_client

PACKETS, LABELS = TP("packets", 0), TP("labels", 1)


class FakeMessage:
    """A message or an error as confluent-kafka has them."""

    def __init__(self, offset: int = 0, tp: TP = PACKETS, error: int | None = None) -> None:
        self._offset, self._tp, self._error = offset, tp, error

    def error(self) -> KafkaError | None:
        return None if self._error is None else KafkaError(self._error)

    def topic(self) -> str:
        return self._tp.topic

    def partition(self) -> int:
        return self._tp.partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes:
        return b"%d" % self._offset

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, 1_000 + self._offset


Answer: TypeAlias = "list[FakeMessage] | Exception | KafkaError"
"""What comes together, what is raised, or an error of the whole client."""


class FakeClient:
    """A consumer whose fetches the test decides on."""

    def __init__(self, answer: Callable[[int], Answer]) -> None:
        self.answer = answer
        self.fetches = 0
        self.end = 7
        self.assigned: list[tuple[str, int, int]] = []
        self.closed = threading.Event()
        self._left: list[FakeMessage] = []

    def made(self, on_error: OnError) -> FakeClient:
        self._on_error = on_error
        return self

    def assign(self, places: Sequence[Any]) -> None:
        self.assigned = [(place.topic, place.partition, place.offset) for place in places]

    def poll(self, timeout: float) -> FakeMessage | None:
        found = self.answer(self.fetches)
        self.fetches += 1
        if isinstance(found, Exception):
            raise found
        if isinstance(found, KafkaError):
            self._on_error(found)
            return None
        if not found:
            time.sleep(timeout / 10)
            return None
        self._left = found[1:]
        return found[0]

    def consume(self, messages: int, timeout: float) -> list[FakeMessage]:
        assert timeout == 0
        found, self._left = self._left[:messages], self._left[messages:]
        return found

    def get_watermark_offsets(self, place: Any, cached: bool) -> tuple[int, int]:
        assert cached
        return (0, self.end) if place.topic == "packets" else (-1001, -1001)

    def close(self) -> None:
        self.closed.set()


class Taker:
    """Takes what a flow hands over, on the event loop."""

    def __init__(self, client: FakeClient, begin: dict[TP, int | None]) -> None:
        self.fetches: list[Fetched] = []
        self.error: FlowgaugeError | None = None
        self.flow = Flow(BusSettings(), client.made, begin, self._arrived)

    def _arrived(self, flow: Flow, what: Fetched | FlowgaugeError) -> None:
        assert flow is self.flow
        if isinstance(what, FlowgaugeError):
            self.error = what
        else:
            self.fetches.append(what)

    def has_more_than(self, fetches: int) -> bool:
        return len(self.fetches) > fetches

    @property
    def offsets(self) -> list[int]:
        return [record.offset for fetched in self.fetches for _, record in fetched]


def run(answer: Callable[[int], Answer], test: Callable[[Taker, FakeClient], Awaitable[None]]) -> FakeClient:
    """Run a test with a flow of two partitions, and end the flow."""

    async def with_flow() -> None:
        taker = Taker(client, {PACKETS: 5, LABELS: None})
        try:
            await test(taker, client)
        finally:
            taker.flow.end()
            taker.flow.join(10)

    client = FakeClient(answer)
    asyncio.run(with_flow())
    assert client.closed.is_set()
    return client


async def until(reached: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_a_flow_begins_where_it_is_told() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: client.fetches)

    client = run(lambda number: [], test)
    assert client.assigned == [("packets", 0, 5), ("labels", 1, OFFSET_BEGINNING)]


def test_messages_come_as_they_are_in_order_and_only_some_fetches_ahead() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: client.fetches == FETCHES_AHEAD)
        await asyncio.sleep(0.05)
        assert client.fetches == FETCHES_AHEAD
        taken = 0
        while taken < 200:
            await until(partial(taker.has_more_than, taken))
            taken += 1
            taker.flow.took()
            assert client.fetches <= taken + FETCHES_AHEAD
        await until(lambda: len(taker.fetches) == taken + FETCHES_AHEAD)
        assert taker.offsets == list(range(taken + FETCHES_AHEAD))
        assert taker.fetches[3] == [(PACKETS, Record(3, None, b"3", 1_003))]

    run(lambda number: [FakeMessage(number)], test)


def test_what_is_there_comes_together_up_to_a_bound() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: taker.fetches)
        assert taker.offsets == list(range(FETCHED_MESSAGES))
        assert len(taker.fetches) == 1

    run(lambda number: [FakeMessage(i) for i in range(100)] if not number else [], test)


def test_where_a_partition_ends_is_known_once_a_fetch_has_told() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        assert taker.flow.end_offset(LABELS) is None
        await until(lambda: taker.flow.end_offset(PACKETS) == 7)
        client.end = 9
        await until(lambda: taker.flow.end_offset(PACKETS) == 9)
        assert taker.flow.end_offset(LABELS) is None

    run(lambda number: [], test)


def test_a_worker_that_takes_nothing_hears_that_more_waits() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: len(taker.fetches) == FETCHES_AHEAD)
        client.end = 900
        await until(lambda: taker.flow.end_offset(PACKETS) == 900)

    run(lambda number: [FakeMessage(number)], test)


def test_an_ended_flow_hands_nothing_over_and_closes_its_client() -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: len(taker.fetches) == FETCHES_AHEAD)
        taker.flow.end()
        taker.flow.took()
        await until(client.closed.is_set)
        assert len(taker.fetches) == FETCHES_AHEAD and client.fetches == FETCHES_AHEAD

    run(lambda number: [FakeMessage(number)], test)


@pytest.mark.parametrize(
    "code, told",
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "no ACL of the bus lets .* read packets"),
        (KafkaError._BAD_MSG, "topic packets: .*[Bb]ad message"),
        (KafkaError._BAD_COMPRESSION, "topic packets: "),
    ],
)
def test_an_error_that_does_not_pass_ends_the_flow(code: int, told: str) -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: taker.error)
        with pytest.raises(BusError, match=told):
            raise taker.error or AssertionError
        await until(client.closed.is_set)
        assert client.fetches == 1 and not taker.fetches

    run(lambda number: [FakeMessage(error=code)], test)


@pytest.mark.parametrize(
    "error, told",
    [
        (
            KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "packets [0]: no"),
            "no ACL of the bus lets .* packets",
        ),
        (KafkaError(KafkaError._STATE, "fenced", fatal=True), "fenced"),
    ],
)
def test_an_error_of_the_client_that_does_not_pass_ends_the_flow(error: KafkaError, told: str) -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: taker.error)
        with pytest.raises(BusError, match=told):
            raise taker.error or AssertionError

    assert run(lambda number: error, test).fetches == 1


def test_errors_that_pass_lose_nothing_and_an_absent_topic_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(number: int) -> Answer:
        if number < 10:
            passing: tuple[Answer, ...] = (
                [FakeMessage(number), FakeMessage(error=KafkaError.UNKNOWN)],
                KafkaError(KafkaError._ALL_BROKERS_DOWN),
                KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED),
                KafkaError(KafkaError._AUTHENTICATION),
                KafkaError(KafkaError._UNKNOWN_TOPIC, "labels [1]: gone"),
            )
            return passing[number % 5]
        return []

    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: client.fetches > 10 and len(taker.fetches) == 2)
        assert taker.offsets == [0, 5] and taker.error is None

    with caplog.at_level(logging.WARNING, "flowgauge"):
        run(answer, test)
    first, second = [record.getMessage() for record in caplog.records]
    assert "topic packets: " in first and "labels [1]: gone; trying on" in second


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KafkaException(KafkaError(KafkaError._STATE))])
def test_a_defect_ends_the_flow_with_an_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def test(taker: Taker, client: FakeClient) -> None:
        await until(lambda: taker.error)
        assert isinstance(taker.error, BusError) and type(error).__name__ in str(taker.error)

    run(lambda number: error, test)
    assert "fetching ends" in caplog.text


def test_a_client_that_cannot_be_made_is_told() -> None:
    def connect(on_error: OnError) -> Any:
        raise SettingsError("no such file of keys")

    async def test() -> None:
        found: list[Any] = []
        flow = Flow(BusSettings(), connect, {PACKETS: 0}, lambda flow, what: found.append(what))
        await until(lambda: found)
        assert isinstance(found[0], SettingsError)
        flow.join(10)

    asyncio.run(test())


def test_a_loop_that_has_gone_away_is_nobody_to_tell() -> None:
    """The thread must not end with a traceback where a worker ended before its flow."""
    go = threading.Event()

    def answer(number: int) -> list[FakeMessage]:
        go.wait(10)
        return [FakeMessage(number)]

    async def begin() -> Taker:
        return Taker(client, {PACKETS: 0})

    client = FakeClient(answer)
    taker = asyncio.run(begin())
    go.set()
    taker.flow.join(10)
    assert client.closed.is_set() and client.fetches == 1


def test_librdkafka_takes_the_properties() -> None:
    client = fetching_client(BusSettings(bootstrap="127.0.0.1:1"), "flowgauge-flows", 0.1, print)
    client.close()
    with pytest.raises(BusError, match=r"bus 127.0.0.1:1: .*no.such.property"):
        unknown = {"no.such.property": "1"}
        fetching_client(BusSettings(bootstrap="127.0.0.1:1", client=unknown), "group", 0.1, print)
