"""Faust's consumer, made so that nothing is lost at a rebalance and that a fetch costs little.

Faust asks the thread that talks to the broker for each fetch anew, waits for the answer with four tasks, and sends
every message through a queue, a stream and its acknowledgements: 0.4 ms of CPU for a fetch of one message. Here a
task in that thread (``_Flow``) fetches by itself and hands what came to the event loop of the handler in one call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver

FETCHED_MESSAGES = 32
"""Most messages of a fetch. The event loop has its turn after so many, or after less than twice as many."""
FETCHES_AHEAD = 4
"""Most fetches that wait in memory for the handler; a message is a batch of up to some 60 KiB."""
_FETCH_TIMEOUT_S = 1.0
"""How long one call waits for records. aiokafka tells by the calls' ends whether anyone still asks for them."""

_AGAIN_S = 0.1

Fetched = Sequence[tuple[Any, Any]]
"""What a fetch brought: Faust's topic and partition, and aiokafka's record."""


class HandoverConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with the handler's flush and hand-over at the right moments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flow: _Flow | None = None
        self._fetches: asyncio.Queue[tuple[_Flow, Fetched]] = asyncio.Queue()
        self._broken = asyncio.Event()
        self._why: Exception | None = None

    @property
    def has_fetch(self) -> bool:
        """Return whether a fetch waits, of the flow before a rebalance perhaps."""
        return not self._fetches.empty()

    async def next_fetch(self) -> Fetched:
        """Wait for the next fetch and return what it brought; the event loop has its turn before.

        Fetches that wait are taken together: what is done once for all messages at hand is then done once for more,
        and the queue gets shorter where a worker would else keep up with it and no more.
        """
        if not self._fetches.empty():
            await asyncio.sleep(0)
        found: list[tuple[Any, Any]] = []
        while not found or (len(found) < FETCHED_MESSAGES and not self._fetches.empty()):
            flow, fetched = await self._fetches.get()
            # What came before the flow stopped comes again after it: the flow begins at the committed offsets.
            if flow is self._flow:
                flow.took()
                found += fetched
        return found

    def resume_flow(self) -> None:
        """Begin to fetch; Faust has sought the committed offsets before."""
        super().resume_flow()
        self._end_flow()
        if active := frozenset(self._get_active_partitions()):
            self._flow = _Flow(self._thread, active, self._arrived)

    def stop_flow(self) -> None:
        """Stop fetching, and forget what the handler has not begun with."""
        self._end_flow()
        super().stop_flow()

    def _end_flow(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.end()

    def _arrived(self, flow: _Flow, records: Mapping[Any, Sequence[Any]] | Exception) -> None:
        """Take what the consumer's thread fetched, or why it cannot go on."""
        if isinstance(records, Exception):
            self._why = records
            self._broken.set()
            return
        if flow is not self._flow:
            return
        inbound, now = self.app.monitor.stream_inbound_time, time.monotonic()
        for tp, found in records.items():
            self._read_offset[tp] = found[-1].offset
            inbound[tp] = now  # Faust's watch over streams that stand still looks here
        if len(records) == 1:
            fetched = [(tp, record) for tp, found in records.items() for record in found]
        else:
            fetched = list(self.scheduler.iterate(records))
        self._fetches.put_nowait((flow, fetched))

    async def _drain_messages(self, fetcher: Any) -> None:
        """Raise what the consumer's thread cannot go on with; what it fetches comes by itself."""
        try:
            await fetcher.wait(self._broken)
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise
        if self._why is not None and not self.app.should_stop:
            raise self._why

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Hand over and commit before the partitions are anyone else's."""
        if not self.app.should_stop:
            self.stop_flow()
            if self.assignment():
                await self.wait_empty()
        self.app.runner.handled.clear()
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Hand over and commit; a failed worker does neither.

        The flow has stopped, and the handler works off a fetch at one stroke: there is nothing to wait for.
        """
        if not self.app.runner.failed:
            # Faust takes a commit under way for this one, but it may leave the last fetches out.
            await self.maybe_wait_for_commit_to_finish()
            await self.app.runner.hand_over()
            await self.commit_and_end_transactions()

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit, unless the last one took so much work that it is too early."""
        if not self.app.runner.may_commit():
            return False
        committed: bool = await super().force_commit(topics, start_new_transaction)
        return committed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[Any]:
        # What the handler has seen counts; Faust's own acknowledgements are not used.
        handled = self.app.runner.handled
        return [tp for tp in handled if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: Any) -> int | None:
        offset: int | None = self.app.runner.handled.get(tp)
        return offset

    async def _commit_offsets(self, offsets: Mapping[Any, int], start_new_transaction: bool = True) -> bool:
        if not await self.app.runner.before_commit():
            return False
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        return committed


class _EagerFetcher(Fetcher):  # type: ignore[misc]
    """Tells who waits for records as soon as they are there, so that the next request goes out with the same turn."""

    async def _proc_fetch_request(self, *args: Any) -> bool:
        news: bool = await super()._proc_fetch_request(*args)
        if news:
            for waiter in self._fetch_waiters:
                self._notify(waiter)
        return news


aiokafka.consumer.consumer.Fetcher = _EagerFetcher


class _Flow:
    """Fetches in the consumer's thread from when it is made until its end, at most some fetches ahead.

    What an ended flow still hands over is dropped by who gets it. Nothing is lost by that: between two flows there is
    a rebalance, and the second begins where the group's committed offsets are.

    Each of the two counters is written by one thread alone, so that neither waits for the other.
    """

    def __init__(
        self, thread: Any, partitions: frozenset[Any], arrived: Callable[[_Flow, Any], None]
    ) -> None:
        self._thread = thread
        self._partitions = partitions
        self._arrived = arrived
        self._brought = 0
        self._taken = 0
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        thread.thread_loop.call_soon_threadsafe(self._begin)

    def took(self) -> None:
        """Make room for another fetch; called by the handler's thread."""
        self._taken += 1
        if self._brought - self._taken >= FETCHES_AHEAD - 1:
            self._thread.thread_loop.call_soon_threadsafe(self._room.set)

    def end(self) -> None:
        """Stop fetching; what the consumer's thread is asked after this finds it stopped."""
        self._thread.thread_loop.call_soon_threadsafe(self._cancel)

    def _begin(self) -> None:
        self._task = self._thread.thread_loop.create_task(self._run())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        found: Any
        try:
            while True:
                while self._brought - self._taken >= FETCHES_AHEAD:
                    self._room.clear()
                    await self._room.wait()
                try:
                    found = await self._fetch()
                except asyncio.CancelledError:
                    # Not this task but what it waited for may have been given up, inside aiokafka: asked for anew.
                    if (task := asyncio.current_task()) is None or task.cancelling():
                        raise
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if found:
                    self._brought += 1
                    self._thread.parent_loop.call_soon_threadsafe(self._arrived, self, found)
        except Exception as error:
            self._thread.parent_loop.call_soon_threadsafe(self._arrived, self, error)

    async def _fetch(self) -> Any:
        consumer = self._thread._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        subscriptions = fetcher._subscriptions
        try:
            with subscriptions.fetch_context():
                return await fetcher.fetched_records(
                    self._partitions, timeout=_FETCH_TIMEOUT_S, max_records=consumer._max_poll_records
                )
        except BaseException:
            # The context does not end by an error: aiokafka would hold this fetch for under way for ever, and
            # never give up the partitions of a worker that stands still.
            subscriptions._fetch_count -= 1
            raise
