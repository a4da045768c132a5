"""What the consumer's thread fetches reaches the handler: in order, bounded, and never after the flow has stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import ConsumerStoppedError
from faust.types import TP

from producers.config import BusSettings
from producers.telemetry import StageMeter
from streams.config import StreamsSettings
from streams.faust_app import Later, Runner, nothing_later
from streams.faust_consumer import FETCHED_MESSAGES, FETCHES_AHEAD, HandoverConsumer

PACKETS, LABELS = TP("packets", 0), TP("labels", 0)


class Nothing:
    """A handler that does nothing."""

    meter = StageMeter("flows", "packets")

    def on_message(self, message: object) -> None: ...
    def on_drained(self) -> None: ...
    def on_idle(self) -> bool:
        return False

    def on_tick(self, waiting: object, *, away: bool = False) -> None: ...
    def on_assigned(self, partitions: object) -> None: ...

    def before_commit(self) -> Later:
        return nothing_later

    def hand_over(self) -> None: ...


class FakeThread:
    """A thread with an event loop, and in it an aiokafka consumer whose fetches the test decides on."""

    def __init__(self) -> None:
        self.parent_loop = asyncio.get_running_loop()
        self.thread_loop = asyncio.new_event_loop()
        self.fetches = 0
        self.result: Callable[[int], Any] = lambda number: {PACKETS: [record(number)]}
        self._fetch_count = 0
        fetcher = SimpleNamespace(_closed=False, fetched_records=self._fetched_records, _subscriptions=self)
        self.consumer = SimpleNamespace(_closed=False, _fetcher=fetcher, _max_poll_records=32)
        self._runs = threading.Thread(target=self.thread_loop.run_forever)
        self._runs.start()

    def _ensure_consumer(self) -> Any:
        return self.consumer

    @contextmanager
    def fetch_context(self) -> Iterator[None]:
        """Count as aiokafka does, which forgets to count down after an error."""
        self._fetch_count += 1
        yield
        self._fetch_count -= 1

    async def _fetched_records(self, partitions: frozenset[TP], timeout: float, max_records: int) -> Any:
        assert partitions == {PACKETS, LABELS}
        self.fetches += 1
        found = self.result(self.fetches - 1)
        if isinstance(found, Exception):
            raise found
        if not found:
            await asyncio.sleep(timeout)
        return found

    def close(self) -> None:
        self.thread_loop.call_soon_threadsafe(self.thread_loop.stop)
        self._runs.join()
        self.thread_loop.close()


def record(offset: int, tp: TP = PACKETS) -> Any:
    return SimpleNamespace(topic=tp.topic, partition=tp.partition, offset=offset)


def run(test: Callable[[HandoverConsumer, FakeThread], Awaitable[None]]) -> None:
    """Run a test with a consumer that has two partitions, before its flow begins."""

    async def with_consumer() -> None:
        consumer = Runner(Nothing(), ["packets"], BusSettings(), StreamsSettings()).app.consumer
        thread = consumer._thread = FakeThread()
        consumer._active_partitions.update({PACKETS, LABELS})
        try:
            await test(consumer, thread)
        finally:
            consumer.stop_flow()
            thread.close()

    asyncio.run(with_consumer())


async def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def offsets(fetched: Any) -> list[int]:
    return [found.offset for _, found in fetched]


def test_fetches_come_in_order_and_only_some_ahead() -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        consumer.resume_flow()
        await until(lambda: thread.fetches == FETCHES_AHEAD)
        await asyncio.sleep(0.05)
        assert thread.fetches == FETCHES_AHEAD
        taken = 0
        while taken < 200:
            found = offsets(await consumer.next_fetch())
            assert found == list(range(taken, taken + len(found)))
            taken += len(found)
            assert thread.fetches <= taken + FETCHES_AHEAD
        await until(lambda: thread.fetches == taken + FETCHES_AHEAD)

    run(test)


def test_fetches_that_wait_are_taken_together_up_to_a_bound() -> None:
    def some(number: int) -> dict[Any, Any]:
        return {PACKETS: [record(20 * number + i) for i in range(20)]}

    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        thread.result = some
        consumer.resume_flow()
        await until(lambda: consumer._fetches.qsize() == FETCHES_AHEAD)
        assert offsets(await consumer.next_fetch()) == list(range(40))
        assert FETCHED_MESSAGES + 20 > 40

    run(test)


def test_partitions_take_turns() -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        found = {PACKETS: [record(4), record(5)], LABELS: [record(9, LABELS)]}
        thread.result = lambda number: found if number == 0 else {}
        consumer.resume_flow()
        assert [tp.topic for tp, _ in await consumer.next_fetch()] == ["packets", "labels", "packets"]
        assert (consumer._read_offset[PACKETS], consumer._read_offset[LABELS]) == (5, 9)

    run(test)


def test_nothing_comes_out_of_a_flow_that_has_stopped() -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        consumer.resume_flow()
        await until(lambda: consumer._fetches.qsize() == FETCHES_AHEAD)
        assert offsets(await consumer.next_fetch())[0] == 0
        await until(lambda: consumer._fetches.qsize() == FETCHES_AHEAD)
        consumer.stop_flow()
        waits = asyncio.ensure_future(consumer.next_fetch())
        await asyncio.sleep(0.05)
        assert not waits.done()
        before = thread.fetches
        await asyncio.sleep(0.05)
        assert thread.fetches == before
        assert thread._fetch_count == 0
        thread.result = lambda number: {PACKETS: [record(1000 + number - before)]}
        consumer.resume_flow()
        assert offsets(await waits)[0] == 1000

    run(test)


def test_a_fetch_under_way_ends_with_its_flow() -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        thread.result = lambda number: {}
        consumer.resume_flow()
        await until(lambda: thread.fetches == 1)
        assert thread._fetch_count == 1
        consumer.stop_flow()
        await until(lambda: thread._fetch_count == 0)

    run(test)


@pytest.mark.parametrize("closed", [False, True])
def test_what_the_thread_cannot_go_on_with_stops_the_worker(closed: bool) -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        thread.result = lambda number: OSError("no way on")
        thread.consumer._closed = closed
        consumer.resume_flow()
        with pytest.raises(ConsumerStoppedError if closed else OSError):
            await asyncio.wait_for(consumer._drain_messages(consumer), 10)
        assert thread._fetch_count == 0

    run(test)


def test_without_partitions_nothing_is_fetched() -> None:
    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        consumer._active_partitions.clear()
        consumer.resume_flow()
        await asyncio.sleep(0.05)
        assert thread.fetches == 0

    run(test)


def test_a_fetch_that_is_given_up_inside_the_client_is_asked_for_anew() -> None:
    def found(number: int) -> Any:
        if number == 1:
            raise asyncio.CancelledError
        return {PACKETS: [record(number)]}

    async def test(consumer: HandoverConsumer, thread: FakeThread) -> None:
        thread.result = found
        consumer.resume_flow()
        taken: list[int] = []
        while len(taken) < 3:
            taken += offsets(await asyncio.wait_for(consumer.next_fetch(), 10))
        assert taken[:3] == [0, 2, 3]

    run(test)
