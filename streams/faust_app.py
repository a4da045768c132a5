"""Faust, set up so that nothing is lost: one agent, one handler, state handed over before offsets are committed.

What Faust (0.15.3) does on its own and this room changes:

- An agent that raises skips its message and commits past it. The loop here never raises.
- At a rebalance it forgets which messages were acked since the last commit, so they come again; it commits
  before it signals; and it acks what it clears from its queues. ``HandoverConsumer`` stops the flow and hands over
  first, then commits, and never further than the handler has come.
- It commits periodically without asking what else must be safe first. Here the handler comes
  before every commit, so an offset committed means that everything made of the messages before it is on the bus.
- On uvloop its client stands still after a broker's restart, now and then (``streams.lost_connections``).
- Each fetch is asked for anew, and each message takes its own way through streams, queues and acknowledgements. Here
  another client fetches (``streams.fetching``), what a fetch brought comes to the agent as one and past its stream, and
  the handler is told when it has seen all of it (``on_drained``).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import faust
import uvloop

from producers.config import BusSettings, topic_name
from producers.health import Health
from producers.metrics import serving
from producers.telemetry import StageMeter
from schemas.errors import BusError, FlowgaugeError
from streams.config import WorkerSettings
from streams.credentials import check_group, faust_credentials, what_is_refused
from streams.faust_consumer import HandoverConsumer
from streams.fetching import Fetched, Flow, Place, fetching_client
from streams.lag import Lag
from streams.lost_connections import mend
from streams.quiet import calm

log = logging.getLogger("flowgauge")

TICK_S = 0.25
_COLLECT_AT = (10_000, 10, 100)
"""When Python looks for cycles, as ``gc.set_threshold`` takes it. What waits in memory for a label or for its packets
is no cycle, and a full collection walks all of it: it comes after ten million new objects, not after 70,000."""
_SWITCH_S = 0.0005
"""How long a busy handler may keep the threads that fetch and commit from the interpreter: 5 ms by default, which
it would wait several times for each fetch."""


Later = Callable[[], None]
"""What is left to do, in any thread."""


@dataclass(frozen=True)
class Message:
    """A message as the handler gets it; ``topic`` is the plain name, without the prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    waiting: int = 0
    """Messages that the broker holds behind this one, as far as the client knows."""


class Handler(Protocol):
    """What an agent does. Every method runs on the worker's event loop, one at a time."""

    @property
    def meter(self) -> StageMeter:
        """What the agent counts about itself; its lag in seconds is set here."""

    def on_message(self, message: Message) -> None:
        """Take a message. Errors about the message are the handler's to count; BusError stops the worker."""

    def on_drained(self) -> None:
        """Bring out what was held back: no message is at hand behind the last one, or enough have been taken."""

    def on_idle(self) -> bool:
        """Do a piece of what can wait for a moment without a message at hand; return whether there is more.

        ``before_commit`` and ``hand_over`` must not leave any.
        """

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Do what time alone asks for.

        Args:
            waiting: the messages left, by (topic, partition), as far as the client knows.
            away: the broker does not answer, so that who is not heard of need not be silent.
        """

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Get ready for these partitions (all that are assigned, by plain topic) before their first message."""

    def before_commit(self) -> Later:
        """Bring what was made of the messages so far to the bus, and copy what the next worker goes on from.

        Called before every commit of their offsets.

        Returns:
            What brings the copies to the bus, and is called in another thread, while messages go on: the commit waits
            for it. It is done before ``before_commit`` or ``hand_over`` are called again.

        Raises:
            BusError: something cannot be brought to the bus; the function returned raises it as well.
        """

    def hand_over(self) -> None:
        """Leave the partitions in hand to the next worker; called after the last message, before its commit."""


def nothing_later() -> None:
    """Do nothing: the ``Later`` of who has no copies to bring to the bus."""


class Runner:
    """Runs one handler in one Faust agent."""

    def __init__(
        self,
        handler: Handler,
        topics: Sequence[str],
        bus: BusSettings,
        settings: WorkerSettings,
        more_meters: Sequence[StageMeter] = (),
    ) -> None:
        """Make the app; nothing connects before ``run``. ``more_meters`` are shown beside the handler's."""
        self.handler = handler
        self._meters = (handler.meter, *more_meters)
        self.failure: FlowgaugeError | None = None
        self.handled: dict[Any, int] = {}
        """Offset of the first message not handled yet, by Faust's topic and partition."""
        self._bus = bus
        self._names = {topic_name(bus, name): name for name in topics}
        self._settings = settings
        self._lag = Lag()
        self._health = Health(settings.stall_s)
        self._next_commit_s = 0.0
        self._holding = False
        self._writing: asyncio.Future[float] | None = None
        """The thread that brings copies to the bus; its result is the CPU time it took, in s."""
        self._worker: _Worker | None = None
        uvloop.install()
        mend()
        # Faust wants a folder, and with no tables keeps nothing in it; it goes with this object.
        self._datadir = tempfile.TemporaryDirectory(prefix="flowgauge-faust-")
        self.app = _make_app(bus, settings, self._datadir.name)
        self._broker = calm("aiokafka", log, f"bus {bus.bootstrap}")
        self.app.runner = self
        source = self.app.topic(*self._names, value_type=bytes, value_serializer="raw", key_serializer="raw")
        self.app.agent(source, concurrency=1, name="flowgauge")(self._loop)
        self.app.timer(TICK_S)(self._tick)
        self.app.on_rebalance_complete.connect(self._assigned)

    def flow(
        self, begin: Mapping[Place, int | None], arrived: Callable[[Flow, Fetched | FlowgaugeError], None]
    ) -> Flow:
        """Begin to fetch: see ``Flow``."""
        connect = partial(fetching_client, self._bus, self.app.conf.id, self._settings.fetch_wait_s)
        return Flow(self._bus, connect, begin, arrived)

    @property
    def failed(self) -> bool:
        """Return whether the worker is stopping because something cannot go on."""
        return self.failure is not None

    def run(self) -> int:
        """Run until stopped; return the exit code: 0 after SIGTERM, 130 after Ctrl-C.

        Raises:
            FlowgaugeError: what made the worker stop.
        """
        check_group(self._bus, self._settings.group)
        self._worker = _Worker(self.app)
        sys.setswitchinterval(_SWITCH_S)
        # What was made so far stays: a full collection that walked all of it would hold messages up.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AT)
        try:
            with serving(self._settings, self._meters, self._health):
                self._worker.execute_from_commandline()
        except FlowgaugeError:
            raise
        except SystemExit as stopped:
            if self.failure is None and stopped.code:
                self.failure = BusError("the worker stopped; its log says why")
        except Exception as error:
            refused = what_is_refused(error, self._bus)
            why = f"bus {self._bus.bootstrap}: {refused}" if refused else f"{type(error).__name__}: {error}"
            self.failure = self.failure or BusError(f"the worker stopped: {why}")
        if self.failure is not None:
            raise self.failure
        return 130 if self._worker.interrupted else 0

    async def guarded(self, step: Callable[[], None]) -> bool:
        """Run a step of the handler; on an error stop the worker and return False."""
        try:
            step()
        except Exception as error:
            self._fail_by(error)
            return False
        return True

    async def _guarded_wait(self, step: Awaitable[float]) -> float | None:
        """Wait for a step of the handler; on an error stop the worker and return None."""
        try:
            return await step
        except Exception as error:
            self._fail_by(error)
            return None

    async def hand_over(self) -> None:
        """Hand over once per assignment: Faust asks more than once."""
        if self._holding:
            self._holding = False
            if await self._copies_written():
                await self.guarded(self.handler.hand_over)

    def may_commit(self) -> bool:
        """Return whether the share of the time that commits may take allows another; a hand-over always does."""
        return not self._holding or time.monotonic() >= self._next_commit_s

    async def before_commit(self) -> bool:
        """Have the handler make a commit safe, most of it beside its messages; return False if that failed."""
        if not await self._copies_written():
            return False
        began_s = time.thread_time()
        left: list[Later] = []
        if not await self.guarded(lambda: left.append(self.handler.before_commit())):
            return False
        spent_s = time.thread_time() - began_s
        self._writing = asyncio.ensure_future(asyncio.to_thread(_cpu_time_s, left[0]))
        # Whoever gives up waiting for the commit does not stop the thread.
        done = await self._guarded_wait(asyncio.shield(self._writing))
        if done is not None:
            self._next_commit_s = time.monotonic() + (spent_s + done) / self._settings.commit_share
        return done is not None

    async def _copies_written(self) -> bool:
        """Wait until no thread reads what the handler has copied; return False if it could not be brought to the bus.

        The commit that waited for it may have been given up, and then nobody else has heard.
        """
        return self._writing is None or await self._guarded_wait(asyncio.shield(self._writing)) is not None

    def _fail_by(self, error: Exception) -> None:
        if not isinstance(error, FlowgaugeError):
            log.error("the worker stops", exc_info=error)
            error = FlowgaugeError(f"unexpected {type(error).__name__}: {error}")
        if self.failure is None:
            self.failure = error
            if self._worker is not None:
                self._worker.stop_soon()

    async def _loop(self, _stream: Any) -> None:
        # The stream makes Faust subscribe; what the consumer fetched comes past it.
        consumer = self.app.consumer
        while await self.guarded(partial(self._take, await consumer.next_fetch())):
            if not await self._use_idle_time(consumer):
                break
        # Faust would start an agent anew that returned.
        await asyncio.Event().wait()

    async def _use_idle_time(self, consumer: HandoverConsumer) -> bool:
        """Let the handler do what can wait, piece by piece, until a fetch comes; return False if that failed."""
        left = [True]
        while left[-1] and not consumer.has_fetch:
            if not await self.guarded(lambda: left.append(self.handler.on_idle())):
                return False
            if left[-1]:
                await asyncio.sleep(0)  # what has come meanwhile is seen after it
        return True

    def _take(self, fetched: Fetched) -> None:
        """Give the handler what a fetch brought; nothing else runs on the event loop meanwhile."""
        for tp, record in fetched:
            message = Message(
                topic=self._names[tp.topic],
                partition=tp.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
                waiting=self._waiting(tp, record.offset + 1),
            )
            self.handler.on_message(message)
        self.handler.on_drained()
        # What was held back is out, so only now these messages may be committed.
        for tp, record in fetched:
            self.handled[tp] = record.offset + 1
            self._lag.took((self._names[tp.topic], tp.partition), record.time_ms * 1_000_000)

    async def _tick(self) -> None:
        if self.failed:
            return
        self.app.consumer.is_alive()
        if not self._holding:
            return
        waiting = {
            (self._names[tp.topic], tp.partition): self._waiting(tp)
            for tp in self.app.consumer.assignment()
            if tp.topic in self._names
        }
        self.handler.meter.gauge("lag_s", self._lag.seconds(waiting, time.time_ns()))
        self._health.tick(sum(waiting.values()), self._lag.taken)
        await self.guarded(lambda: self.handler.on_tick(waiting, away=self._broker.in_outage))

    def _waiting(self, tp: Any, position: int | None = None) -> int:
        """Return how many messages the broker holds from ``position`` on, by default behind the last one handled."""
        end = self.app.consumer.highwater(tp)
        if position is None:
            position = self.handled.get(tp)
        if position is None:
            position = self.app.consumer._read_offset.get(tp)  # where the flow began
        return 0 if end is None or position is None else max(0, end - position)

    async def _assigned(self, app: Any, **_: object) -> None:
        partitions: dict[str, set[int]] = {}
        for tp in app.consumer.assignment():
            if tp.topic in self._names:
                partitions.setdefault(self._names[tp.topic], set()).add(tp.partition)
        self._lag.clear()
        if await self.guarded(lambda: self.handler.on_assigned(partitions)):
            self._holding = True


def _cpu_time_s(step: Later) -> float:
    """Do a step and return the CPU time of this thread that it took."""
    began_s = time.thread_time()
    step()
    return time.thread_time() - began_s


class _Worker(faust.Worker):  # type: ignore[misc]
    """Faust's worker, quiet, and aware of whether it was interrupted."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            app,
            override_logging=False,
            redirect_stdouts=False,
            stdout=sys.stderr,
            loop=asyncio.new_event_loop(),
        )
        self.spinner = None
        self.interrupted = False

    def _on_startup_end_spinner(self) -> None:
        """Say nothing where Faust prints OK."""

    def _on_sigint(self) -> None:
        self.interrupted = True
        self._schedule_shutdown(signal.SIGINT)

    def stop_soon(self) -> None:
        """Stop as if asked by a signal."""
        self._schedule_shutdown(signal.SIGTERM)


def _make_app(bus: BusSettings, settings: WorkerSettings, datadir: str) -> Any:
    app = faust.App(
        f"{bus.topic_prefix}{settings.group}",
        broker=[f"kafka://{host}" for host in bus.bootstrap.split(",")],
        broker_credentials=faust_credentials(bus),
        datadir=datadir,
        web_enabled=False,
        # Topics are made by `flowgauge topics --create`; Faust would guess their settings.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # More than 0 makes Faust use its own assignor, which keeps equal partitions of all topics together.
        table_standby_replicas=1,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=settings.commit_interval_s,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 5,
    )
    app.transport.Consumer = HandoverConsumer
    return app
