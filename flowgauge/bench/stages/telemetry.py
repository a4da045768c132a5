"""``telemetry_cost_percent``: the share of a flows worker's time that counting and telling its costs takes.

The time inside is measured, clock readings included: it is too little to be seen as a difference between runs with and
without. What it is a share of is the agent alone, without Kafka's client and Faust; of a worker it is less.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result
from flowgauge.bench.sink import NullSink
from flowgauge.bench.stages.encode import kept_blocks, messages
from producers.config import BusSettings
from producers.telemetry import StageMeter
from schemas.packets import PacketBatch, decode_packet_batch
from schemas.topics import PACKETS
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import TICK_S, Message
from streams.fetching import FETCHED_MESSAGES

PASSES = 60
"""How often the corpus is gone through: costs are told each second, so it should take several."""


class TimedMeter(StageMeter):
    """A meter that takes the time of what is called for each message."""

    spent_ns = 0

    def drop(self, reason: str, items: int = 1) -> None:
        """Count items dropped."""
        began_ns = time.perf_counter_ns()
        super().drop(reason, items)
        self.spent_ns += time.perf_counter_ns() - began_ns

    def record_ns(self, latency_ns: int, count: int = 1) -> None:
        """Count the time from the probe to this stage's output."""
        began_ns = time.perf_counter_ns()
        super().record_ns(latency_ns, count)
        self.spent_ns += time.perf_counter_ns() - began_ns


def telemetry(corpus: Corpus, settings: StreamsSettings, partitions: int, passes: int = PASSES) -> Result:
    """Measure the agent at full rate."""
    meter = TimedMeter("flows", "packets")
    agent = FlowsAgent(settings, BusSettings(partitions=partitions), NullSink(), meter)
    batches = [decode_packet_batch(value) for value in messages(kept_blocks(corpus), partitions)]
    _pass(agent, meter, _messages(batches, 0))  # fills caches
    spent_ns, took_ns = 0, 0
    for number in range(1, passes + 1):
        inside_ns, whole_ns = _pass(agent, meter, _messages(batches, number))
        spent_ns, took_ns = spent_ns + inside_ns, took_ns + whole_ns
    return Result(
        "telemetry_cost_percent",
        round(100 * spent_ns / took_ns, 3),
        "%",
        details={"seconds": round(took_ns / 1e9, 2), "messages": passes * len(batches)},
    )


def _messages(batches: Sequence[PacketBatch], number: int) -> list[Message]:
    """Return the batches as messages of an epoch of their own, so that they are no repetition."""
    return [
        Message(PACKETS, batch.partition, offset, None, replace(batch, epoch=number + 1).encode())
        for offset, batch in enumerate(batches, number * len(batches))
    ]


def _pass(agent: FlowsAgent, meter: TimedMeter, given: Sequence[Message]) -> tuple[int, int]:
    """Give the agent all messages as a worker does; return the time that telemetry took and all of it, in ns."""
    # With messages waiting, all that a tick does is telling.
    waiting = {(PACKETS, message.partition): 1 for message in given}
    meter.spent_ns, next_tick_ns, began_ns = 0, 0, time.perf_counter_ns()
    for first in range(0, len(given), FETCHED_MESSAGES):
        for message in given[first : first + FETCHED_MESSAGES]:
            agent.on_message(message)
        agent.on_drained()
        if (now_ns := time.perf_counter_ns()) >= next_tick_ns:
            next_tick_ns = now_ns + round(TICK_S * 1e9)
            agent.on_tick(waiting)
            meter.spent_ns += time.perf_counter_ns() - now_ns
    return meter.spent_ns, time.perf_counter_ns() - began_ns
