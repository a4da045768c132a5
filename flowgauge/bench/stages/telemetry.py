"""``telemetry_cost_percent``: the share of a flows worker's CPU time that counting and telling its costs takes.

The same messages go through the agent with its meter and with one that does nothing, in turns. Each pair of turns is
a comparison of its own, and the median of them is told. The share is of the agent alone, without Kafka's client and
Faust, so it is less of a worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result
from flowgauge.bench.sink import NullSink
from flowgauge.bench.stages.encode import kept_blocks, messages
from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.packets import decode_packet_batch
from schemas.topics import PACKETS, TELEMETRY_COST
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import FETCHED_MESSAGES, TICK_S, Message

PAIRS = 15
PASSES = 6
"""How often a turn repeats the corpus: it should take longer than the interval of telemetry."""
_NEVER_S = 3600.0


class SilentMeter(StageMeter):
    """Counts nothing but what its attributes hold."""

    def drop(self, reason: str, items: int = 1) -> None:
        """Do nothing."""

    def count(self, name: str, events: int = 1) -> None:
        """Do nothing."""

    def gauge(self, name: str, value: float | None) -> None:
        """Do nothing."""

    def record_ns(self, latency_ns: int, count: int = 1) -> None:
        """Do nothing."""


def telemetry(
    corpus: Corpus, settings: StreamsSettings, partitions: int, pairs: int = PAIRS, passes: int = PASSES
) -> Result:
    """Measure the agent at full rate, with and without its telemetry."""
    given = list(_messages(corpus, partitions, passes))
    bus = BusSettings(partitions=partitions)
    silent = settings.model_copy(update={"telemetry_interval_s": _NEVER_S})
    shares: list[float] = []
    records = 0
    _turn(FlowsAgent(settings, bus, NullSink()), given)
    for number in range(pairs):
        taken = {}
        # Whoever comes second may find other caches, so they take turns in that, too.
        for told in (number % 2 == 0, number % 2 == 1):
            sink = NullSink()
            agent = (
                FlowsAgent(settings, bus, sink)
                if told
                else FlowsAgent(silent, bus, sink, SilentMeter("flows", "packets"))
            )
            taken[told] = _turn(agent, given)
            records += sink.messages[TELEMETRY_COST] if told else 0
        shares.append(100 * (taken[True] - taken[False]) / taken[True])
    return Result(
        "telemetry_cost_percent",
        round(median(shares), 2),
        "%",
        repeats=pairs,
        details={
            "least": round(min(shares), 2),
            "most": round(max(shares), 2),
            "messages_per_turn": len(given),
            "telemetry_records": records,
        },
    )


def _messages(corpus: Corpus, partitions: int, passes: int) -> Iterator[Message]:
    """Yield the corpus's messages ``passes`` times, each time of another epoch, so that none is a repetition."""
    batches = [decode_packet_batch(value) for value in messages(kept_blocks(corpus), partitions)]
    for epoch in range(1, passes + 1):
        for offset, batch in enumerate(batches, (epoch - 1) * len(batches)):
            yield Message(PACKETS, batch.partition, offset, None, replace(batch, epoch=epoch).encode())


def _turn(agent: FlowsAgent, given: Sequence[Message]) -> float:
    """Give the agent all messages as a worker does; return the CPU seconds that took."""
    waiting = {(PACKETS, message.partition): 1 for message in given}
    next_tick_s = 0.0
    began_s = time.process_time()
    for first in range(0, len(given), FETCHED_MESSAGES):
        for message in given[first : first + FETCHED_MESSAGES]:
            agent.on_message(message)
        agent.on_drained()
        if time.monotonic() >= next_tick_s:
            next_tick_s = time.monotonic() + TICK_S
            agent.on_tick(waiting)
    return time.process_time() - began_s
