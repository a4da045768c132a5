"""Faust's consumer, made so that nothing is lost at a rebalance and that a fetch costs little.

Faust asks the thread that talks to the broker for each fetch anew, waits for the answer with four tasks, and sends
every message through a queue, a stream and its acknowledgements: 0.4 ms of CPU for a fetch of one message, and its
client as much again. Here another client fetches (``streams.fetching``) and hands what came to the event loop of the
handler in one call; Faust's own is in the group, and commits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from faust.transport.drivers import aiokafka as driver

from schemas.errors import FlowgaugeError
from streams.fetching import FETCHED_MESSAGES, Fetched, Flow

_END_S = 2.0
"""For how long the end of a worker waits for its client to be closed."""


class GroupThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's thread that talks to the broker, whose client asks for no messages."""

    async def on_start(self) -> None:
        """Start the client; there is nothing that it could ask for before it has."""
        await super().on_start()
        fetcher = self._consumer._fetcher
        fetcher._get_actions_per_node = partial(_without_fetches, fetcher._get_actions_per_node)


def _without_fetches(actions: Callable[[Any], Any], assignment: Any) -> Any:
    """Return what aiokafka's fetcher has to do but its fetches: it looks after positions too."""
    _, *others = actions(assignment)
    return [], *others


class HandoverConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with the handler's flush and hand-over at the right moments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._flow: Flow | None = None
        self._fetches: asyncio.Queue[tuple[Flow, Fetched]] = asyncio.Queue()
        self._broken = asyncio.Event()
        self._why: FlowgaugeError | None = None

    def _new_consumer_thread(self) -> GroupThread:
        return GroupThread(self, loop=self.loop, beacon=self.beacon)

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
        if active := self._get_active_partitions():
            begin = {tp: self._read_offset[tp] for tp in active}
            self._flow = self.app.runner.flow(begin, self._arrived)

    def stop_flow(self) -> None:
        """Stop fetching, and forget what the handler has not begun with."""
        self._end_flow()
        super().stop_flow()

    def _end_flow(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.end()

    async def on_stop(self) -> None:
        """Leave no thread behind that fetches."""
        flow = self._flow
        self._end_flow()
        await super().on_stop()
        if flow is not None:
            await asyncio.to_thread(flow.join, _END_S)

    def _arrived(self, flow: Flow, fetched: Fetched | FlowgaugeError) -> None:
        """Take what was fetched, or why there will be no more."""
        if flow is not self._flow:
            return
        if isinstance(fetched, FlowgaugeError):
            self._why = fetched
            self._broken.set()
        else:
            self._fetches.put_nowait((flow, fetched))

    async def _drain_messages(self, fetcher: Any) -> None:
        """Raise what fetching cannot go on with; what it brings comes by itself."""
        try:
            await fetcher.wait(self._broken)
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise
        if self._why is not None and not self.app.should_stop:
            raise self._why

    def highwater(self, tp: Any) -> int | None:
        """Return the offset behind the last message of a partition, as far as is known."""
        return None if self._flow is None else self._flow.end_offset(tp)

    def is_alive(self) -> None:
        """Tell Faust's client that its messages are asked for; without a word for long it would leave the group."""
        client = self._thread._consumer  # none before it has begun
        if client is not None:
            client._subscription._last_fetch_ended = time.monotonic()

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Say nothing where Faust misses the fetches of its own client: ``producers.health`` watches."""

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
