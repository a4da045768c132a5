"""``message_…``: the CPU that a small message costs, whatever is in it.

A worker at a low rate sleeps between two messages, and what it needs is then out of the caches. So each is measured
twice: one message behind the other, and with a pause before each, which is what such a worker pays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flowgauge.bench.results import Result
from flowgauge.bench.sink import NullSink
from flowgauge.bench.synthetic import START_NS, columns_of
from producers.config import BusSettings
from schemas.features import ROW_COLUMNS, FeatureBatch, decode_feature_batch
from schemas.packets import PACKET_COLUMNS, PacketBatch, decode_packet_batch
from schemas.topics import PACKETS
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import Message
from streams.partition import Partition

ROWS, FLOWS, PACKETS_OF_A_FLOW = 32, 25, 4
MESSAGES = 500
PAUSE_S = 0.002
_BETWEEN_NS = 5_000_000
"""Event time between two packet messages."""


def messages(settings: StreamsSettings) -> list[Result]:
    """Measure each step of a message of 32 rows, or of 100 packets of 25 flows, by itself."""
    agent = FlowsAgent(settings, BusSettings(partitions=1), NullSink())
    packets = [_packets(number).encode() for number in range(2 * MESSAGES)]
    rows = _rows(agent, packets[:8])
    decoded = [decode_packet_batch(value) for value in packets]
    batches = [decode_feature_batch(value) for value in rows]
    offsets = iter(range(2 * MESSAGES))

    def fold(value: bytes) -> None:
        agent.on_message(Message(PACKETS, 0, next(offsets), None, value))
        agent.on_drained()

    return [
        _measured("message_packets_encode", lambda batch: batch.encode(), decoded),
        _measured("message_packets_decode", decode_packet_batch, packets),
        _measured("message_packets_to_rows", fold, packets),
        _measured("message_rows_encode", lambda batch: batch.encode(), batches),
        _measured("message_rows_decode", decode_feature_batch, rows),
    ]


def _measured(name: str, step: Callable[[Any], object], values: Sequence[Any]) -> Result:
    """Return the CPU of a step in µs a message; the first half of the messages go without a pause."""
    half = len(values) // 2
    at_once, paused = _cpu_us(step, values[:half], 0.0), _cpu_us(step, values[half:], PAUSE_S)
    return Result(name, paused, "µs", details={"without_pause_us": at_once, "messages": half})


def _cpu_us(step: Callable[[Any], object], values: Sequence[Any], pause_s: float) -> float:
    spent_ns = 0
    for value in values:
        if pause_s:
            time.sleep(pause_s)
        began_ns = time.thread_time_ns()
        step(value)
        spent_ns += time.thread_time_ns() - began_ns
    return round(spent_ns / 1e3 / len(values), 1)


def _packets(number: int) -> PacketBatch:
    """Return the batch of a number: packets of new flows in turn."""
    columns = columns_of(FLOWS * number, FLOWS)
    for c in PACKET_COLUMNS:
        columns[c.name] = np.tile(columns[c.name], PACKETS_OF_A_FLOW)
    step_ns = _BETWEEN_NS // (FLOWS * PACKETS_OF_A_FLOW)
    columns["time_ns"] = START_NS + _BETWEEN_NS * number + step_ns * np.arange(FLOWS * PACKETS_OF_A_FLOW)
    return PacketBatch("bench", 1, 0, 1, number, time.time_ns(), columns)


def _rows(agent: FlowsAgent, packets: Sequence[bytes]) -> list[bytes]:
    """Return messages of rows that the packets' flows make."""
    partition = Partition(agent.plan, 0)
    made = [
        batch
        for value in packets
        for batch in partition.apply(decode_packet_batch(value), time.time_ns(), time.monotonic_ns())
    ]
    first = made[0]
    columns = {
        name: np.concatenate([b.columns[name] for b in made if b.representation == first.representation])
        for name in (*(c.name for c in ROW_COLUMNS), "features")
    }
    return [_cut(first, columns, number).encode() for number in range(2 * MESSAGES)]


def _cut(batch: FeatureBatch, columns: dict[str, Any], number: int) -> FeatureBatch:
    """Return some of the rows, at times of their own."""
    places = (np.arange(ROWS) + number) % len(columns["flow_id"])
    cut = {name: column[places] for name, column in columns.items()}
    return replace(batch, columns=cut, source_sequence=number, flows_sent_time_ns=time.time_ns())
