"""``checkpoint_cost_percent`` and ``recovery_s``: what it costs that a worker may die, and how long it is missed.

A backlog on ``packets`` holds many active flows. One flows worker after another works it off, with copies of the flow
state as often as the settings have it and with none, and tells its rate on ``telemetry.cost``. Then packets go on
coming, the last worker is killed with -9, and another one is started at that moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from flowgauge.bench.accounting import BusReader
from flowgauge.bench.children import Child
from flowgauge.bench.results import Result
from flowgauge.bench.stages.bus import bench_topics, kafka
from flowgauge.bench.synthetic import START_NS, busy_batch
from producers.bus import BusProducer, Sink
from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties
from schemas.codec import decode
from schemas.errors import BusError
from schemas.features import decode_feature_batch
from schemas.packets import MAX_PACKETS
from schemas.topics import PACKETS, TELEMETRY_COST
from streams.config import StreamsSettings

ACTIVE_FLOWS = 100_000
PARTITIONS = 2
"""Unless the settings say otherwise."""
REPEATS = 4
_FLOWS_PER_BATCH = 256
_STEP_NS = 1_000
"""Event time between packets of the backlog: a million packets a second, ten of each flow."""
_SELDOM = ("--set", "streams.commit_interval_s=60")
"""No copy is made while a worker is measured."""
_TELL = ("--set", "streams.telemetry_interval_s=0.25")
"""Rates are of whole intervals, so they should be short."""
_FEED_S = 0.05
"""Between two batches for each partition, while a worker is killed."""
_NEW_FLOWS = 32
"""New flows in each of those, so that each makes rows at once."""
_BEFORE_KILL_S = 3.0
_TIMEOUT_S = 120.0
_POLL_S = 0.1
_AT_ONCE = 1_000


@dataclass(frozen=True)
class Setup:
    """What is run."""

    streams: StreamsSettings
    bus: BusSettings
    packets: int
    """In the backlog, at least."""
    flows: int = ACTIVE_FLOWS
    repeats: int = REPEATS
    external: bool = False
    """Whether a broker that runs already is used."""
    passed_on: tuple[str, ...] = ()
    """Flags that give the settings to the workers."""


@dataclass
class Feed:
    """Puts batches on ``packets``; partitions have flows of their own."""

    bus: BusSettings
    sink: Sink
    flows: int
    event_ns: int = START_NS
    sequences: Iterator[int] = field(default_factory=count)
    new_flows: Iterator[int] = field(default_factory=lambda: count(0, _NEW_FLOWS))

    def backlog(self, packets: int) -> int:
        """Put at least so many packets on the bus, of all flows in turn; return how many."""
        share, first, done = self.flows // self.bus.partitions, 0, 0
        while done < packets:
            flows = min(_FLOWS_PER_BATCH, share - first)
            done += self._put(first, flows, _STEP_NS)
            first = (first + flows) % share
        self.flush()
        return done

    def beat(self) -> None:
        """Put a batch with new flows into each partition, event time going on as on the clock."""
        self._put(self.flows + next(self.new_flows), _NEW_FLOWS, round(_FEED_S * 1e9) // MAX_PACKETS)
        self.flush()

    def flush(self) -> None:
        """Wait until the broker has it all."""
        self.sink.flush(_TIMEOUT_S)
        self.sink.check()

    def _put(self, first: int, flows: int, step_ns: int) -> int:
        """Put a batch into each partition; return the packets in them."""
        sequence, packets = next(self.sequences), 0
        for partition in range(self.bus.partitions):
            batch = busy_batch(
                partition,
                self.bus.partitions,
                sequence,
                (partition << 22) + first,
                flows,
                self.event_ns,
                step_ns,
            )
            self.sink.produce(topic_name(self.bus, PACKETS), batch.encode(), partition)
            packets += batch.packets
        self.event_ns += MAX_PACKETS * step_ns
        return packets


def recovery(setup: Setup, on_step: Callable[[str], None]) -> list[Result]:
    """Measure both.

    Raises:
        BusError: no broker, no Java, or a worker failed.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    with kafka(setup.bus, setup.external, on_step) as (bootstrap, _):
        bus = setup.bus.model_copy(update={"bootstrap": bootstrap, "topic_prefix": prefix})
        with bench_topics(bus, setup.streams, setup.external):
            sink = BusProducer(bus)
            sink.connect()
            feed = Feed(bus, sink, setup.flows)
            packets = feed.backlog(setup.packets)
            pairs: list[tuple[Busy, Busy]] = []
            for number in range(setup.repeats):
                on_step(f"working off {packets:,} packets with and without copies of the state")
                # Whoever comes second may find the broker's files in memory, so they take turns in that.
                runs = {
                    copies: _work_off(setup, bus, f"{number}-{copies}", packets, copies)
                    for copies in (number % 2 == 0, number % 2 == 1)
                }
                pairs.append((runs[True], runs[False]))
            on_step("killing a worker")
            found = _kill(setup, bus, "0-True", feed)
    return [checkpoint_cost(pairs, setup.flows), found]


@dataclass(frozen=True)
class Busy:
    """What a worker told of the intervals in which it was never idle."""

    packets: int
    seconds: float
    cpu_s: float
    state_bytes: int
    """Of all copies that were made of the state."""

    @property
    def rate(self) -> float:
        """Return packets per second."""
        return self.packets / self.seconds


def _work_off(setup: Setup, bus: BusSettings, group: str, packets: int, copies: bool) -> Busy:
    reader, began_ns = BusReader(bus), time.time_ns()
    try:
        with _worker(setup, bus, group, _TELL if copies else (*_TELL, *_SELDOM)) as worker:
            deadline = time.monotonic() + _TIMEOUT_S
            while sum(record["items_in"] for record in _told(reader, began_ns)) < packets:
                if not worker.running:
                    raise worker.failure()
                if time.monotonic() > deadline:
                    raise BusError(
                        f"the flows worker took more than {_TIMEOUT_S:.0f} s for {packets:,} packets"
                    )
                time.sleep(_POLL_S)
            worker.terminate()
            worker.wait(_TIMEOUT_S)
        return while_busy(_told(reader, began_ns))
    finally:
        reader.close()


def _worker(setup: Setup, bus: BusSettings, group: str, more: Sequence[str] = ()) -> Child:
    command = [
        sys.executable,
        "-m",
        "flowgauge",
        "streams",
        "--json",
        *setup.passed_on,
        "--bus",
        bus.bootstrap,
    ]
    for name, value in (("topic_prefix", bus.topic_prefix), ("partitions", bus.partitions)):
        command += ["--set", f"bus.{name}={value}"]
    return Child("flowgauge streams", [*command, "--set", f"streams.group={group}", *more])


def _told(reader: BusReader, since_ns: int) -> list[dict[str, Any]]:
    """Return what flows workers have told of intervals that began after ``since_ns``."""
    records = (decode("CostTelemetry", value) for value in reader.read(TELEMETRY_COST, 0))
    return [r for r in records if r["stage"] == "flows" and r["time_ns"] - r["interval_ns"] > since_ns]


def while_busy(records: Sequence[dict[str, Any]]) -> Busy:
    """Return the sums over the intervals between the first with packets and the last, which may be half idle."""
    busy = [record for record in records if record["items_in"]][1:-1]
    if not busy:
        raise BusError("the flows worker was done too soon; send more packets (--packets)")
    return Busy(
        packets=sum(record["items_in"] for record in busy),
        seconds=sum(record["interval_ns"] for record in busy) / 1e9,
        cpu_s=sum(record["cpu_ns"] for record in busy) / 1e9,
        state_bytes=sum(record["counters"].get("state_saved_bytes", 0) for record in busy),
    )


def checkpoint_cost(pairs: Sequence[tuple[Busy, Busy]], flows: int) -> Result:
    """Return by how much lower the rate is with copies, in percent, of (with, without) pairs: median to median."""
    rate, plain_rate = (median(runs[at].rate for runs in pairs) for at in (0, 1))
    cpu, plain_cpu = (median(runs[at].cpu_s / runs[at].packets for runs in pairs) for at in (0, 1))
    return Result(
        "checkpoint_cost_percent",
        round(100 * (1 - rate / plain_rate), 2),
        "%",
        cpu_value=round(100 * (1 - plain_cpu / cpu), 2),
        repeats=len(pairs),
        details={
            "each": [round(100 * (1 - copied.rate / plain.rate), 2) for copied, plain in pairs],
            "active_flows": flows,
            "packets_per_s": round(rate),
            "packets_per_s_without": round(plain_rate),
            "state_bytes_per_s": round(median(copied.state_bytes / copied.seconds for copied, _ in pairs)),
        },
    )


def _kill(setup: Setup, bus: BusSettings, group: str, feed: Feed) -> Result:
    """Kill the worker that holds all flows, start the next, and wait for a row made of a packet sent after that."""
    rows = _RowReader(bus, setup.streams)
    try:
        with _worker(setup, bus, group) as first:
            began_ns = time.time_ns()
            _feed_until(feed, rows, began_ns, first)
            held = time.monotonic() + _BEFORE_KILL_S
            while time.monotonic() < held:
                feed.beat()
                time.sleep(_FEED_S)
            os.kill(first.pid, signal.SIGKILL)
            killed_ns = time.time_ns()
            with _worker(setup, bus, group) as second:
                back_ns = _feed_until(feed, rows, killed_ns, second)
                second.terminate()
                counters = json.loads(second.wait(_TIMEOUT_S))["counters"]
    finally:
        rows.close()
    return Result(
        "recovery_s",
        round((back_ns - killed_ns) / 1e9, 2),
        "s",
        details={
            "active_flows": setup.flows,
            "session_timeout_s": setup.streams.session_timeout_s,
            "states_restored": counters.get("states_restored", 0),
            "messages_redelivered": counters.get("messages_redelivered", 0),
        },
    )


def _feed_until(feed: Feed, rows: _RowReader, since_ns: int, worker: Child) -> int:
    """Go on sending until a row of a packet sent after ``since_ns`` can be read; return the clock then, in ns."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not rows.newer(since_ns):
        if not worker.running:
            raise worker.failure()
        if time.monotonic() > deadline:
            raise BusError(f"the flows worker made no rows within {_TIMEOUT_S:.0f} s")
        feed.beat()
        time.sleep(_FEED_S)
    return time.time_ns()


class _RowReader:
    """Reads feature messages from now on."""

    def __init__(self, bus: BusSettings, streams: StreamsSettings) -> None:
        self._consumer = Consumer(
            client_properties(bus, {"group.id": "flowgauge-bench-rows", "enable.auto.commit": False})
        )
        topics = [topic_name(bus, f"features.{r.name}") for r in streams.computed]
        self._consumer.assign(
            [TopicPartition(topic, p, OFFSET_END) for topic in topics for p in range(bus.partitions)]
        )
        self._consumer.poll(_POLL_S)

    def newer(self, since_ns: int) -> bool:
        """Return whether a row has come that was made of a batch sent after ``since_ns``."""
        values = [m.value() for m in self._consumer.consume(_AT_ONCE, 0) if m.error() is None]
        return any(decode_feature_batch(value).probe_time_ns > since_ns for value in values)

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()
