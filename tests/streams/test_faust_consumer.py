"""What a flow fetches reaches the handler, and never after the flow has stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from faust.types import TP

from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.errors import BusError
from streams.config import StreamsSettings
from streams.faust_app import Later, Runner, nothing_later
from streams.faust_consumer import GroupThread, HandoverConsumer
from streams.fetching import FETCHED_MESSAGES, Record

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


class FakeFlow:
    """A flow whose fetches the test decides on."""

    def __init__(self, begin: Mapping[TP, int | None], arrived: Callable[[Any, Any], None]) -> None:
        self.begin, self._arrived = dict(begin), arrived
        self.taken = 0
        self.ended = False

    def bring(self, what: Any) -> None:
        self._arrived(self, what)

    def took(self) -> None:
        self.taken += 1

    def end(self) -> None:
        self.ended = True

    def end_offset(self, place: TP) -> int | None:
        return 7 if place == PACKETS else None


def some(first: int, count: int = 1) -> list[tuple[TP, Record]]:
    return [(PACKETS, Record(offset, None, b"", 0)) for offset in range(first, first + count)]


def run(test: Callable[[HandoverConsumer, list[FakeFlow]], Awaitable[None]]) -> None:
    """Run a test with a consumer that has two partitions, before its flow begins, and a list of its flows."""

    async def with_consumer() -> None:
        runner = Runner(Nothing(), ["packets"], BusSettings(), StreamsSettings())
        flows: list[FakeFlow] = []

        def flow(*given: Any) -> Any:
            flows.append(FakeFlow(*given))
            return flows[-1]

        cast(Any, runner).flow = flow
        consumer = runner.app.consumer
        consumer._active_partitions.update({PACKETS, LABELS})
        consumer._read_offset[PACKETS] = 5
        await test(consumer, flows)

    asyncio.run(with_consumer())


def offsets(fetched: Any) -> list[int]:
    return [found.offset for _, found in fetched]


def test_a_flow_begins_where_the_group_is() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer.resume_flow()
        assert [flow.begin for flow in flows] == [{PACKETS: 5, LABELS: None}]

    run(test)


def test_fetches_that_wait_are_taken_together_up_to_a_bound() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer.resume_flow()
        for number in range(4):
            flows[0].bring(some(20 * number, 20))
        assert offsets(await consumer.next_fetch()) == list(range(40))
        assert flows[0].taken == 2
        assert FETCHED_MESSAGES + 20 > 40
        assert offsets(await consumer.next_fetch()) == list(range(40, 80))
        assert not consumer.has_fetch

    run(test)


def test_nothing_comes_out_of_a_flow_that_has_stopped() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer.resume_flow()
        flows[0].bring(some(0))
        assert offsets(await consumer.next_fetch()) == [0]
        flows[0].bring(some(1))
        consumer.stop_flow()
        assert flows[0].ended
        waits = asyncio.ensure_future(consumer.next_fetch())
        flows[0].bring(some(2))
        await asyncio.sleep(0.05)
        assert not waits.done()
        consumer.resume_flow()
        flows[0].bring(some(3))
        flows[1].bring(some(1000))
        assert offsets(await asyncio.wait_for(waits, 10)) == [1000]
        assert not flows[1].ended

    run(test)


def test_what_fetching_cannot_go_on_with_stops_the_worker() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer.resume_flow()
        waits = asyncio.ensure_future(consumer._drain_messages(consumer))
        await asyncio.sleep(0.01)
        flows[0].bring(BusError("no way on"))
        with pytest.raises(BusError, match="no way on"):
            await asyncio.wait_for(waits, 10)

    run(test)


def test_an_error_of_a_flow_that_has_stopped_is_nobodys() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer.resume_flow()
        consumer.stop_flow()
        flows[0].bring(BusError("no way on"))
        assert not consumer._broken.is_set()

    run(test)


def test_without_partitions_nothing_is_fetched() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        consumer._active_partitions.clear()
        consumer.resume_flow()
        assert not flows

    run(test)


def test_where_partitions_end_is_what_the_flow_says() -> None:
    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        assert consumer.highwater(PACKETS) is None
        consumer.resume_flow()
        assert (consumer.highwater(PACKETS), consumer.highwater(LABELS)) == (7, None)

    run(test)


def test_a_worker_whose_loop_turns_stays_in_its_group() -> None:
    """aiokafka leaves the group, for good, when nobody has asked it for messages for long."""

    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        state = SubscriptionState()
        consumer._thread = SimpleNamespace(_consumer=None)
        await consumer.app.runner._tick()  # before there is a client
        consumer._thread = SimpleNamespace(_consumer=SimpleNamespace(_subscription=state))
        state._last_fetch_ended = time.monotonic() - 5_000
        assert state.fetcher_idle_time > 4_000
        await consumer.app.runner._tick()  # without partitions too
        assert state.fetcher_idle_time < 10

    run(test)


def test_faust_s_own_client_asks_for_no_messages() -> None:
    state = SimpleNamespace(has_valid_position=True, paused=False, position=3)
    assignment = SimpleNamespace(tps={PACKETS}, state_value=lambda tp: state)
    cluster = SimpleNamespace(leader_for_partition=lambda tp: 1)
    fetcher = Fetcher.__new__(Fetcher)
    fetcher.__dict__.update(
        _records={}, _in_flight=set(), _preferred_read_replica={}, _client=SimpleNamespace(cluster=cluster),
        _max_partition_fetch_bytes=1, _fetch_max_wait_ms=1, _fetch_min_bytes=1, _fetch_max_bytes=1, _isolation_level=0,
        _client_rack=None, _fetcher_timeout=0.2,
    )  # fmt: skip

    class Client:
        _fetcher = fetcher

        async def start(self) -> None: ...

    async def test(consumer: HandoverConsumer, flows: list[FakeFlow]) -> None:
        assert len(fetcher._get_actions_per_node(assignment)[0]) == 1
        thread = consumer._thread
        assert isinstance(thread, GroupThread)
        cast(Any, thread)._create_consumer = lambda loop: Client()
        thread.thread_loop = asyncio.get_running_loop()
        await thread.on_start()
        assert fetcher._get_actions_per_node(assignment) == ([], {}, 0.2, False, [])

    run(test)
