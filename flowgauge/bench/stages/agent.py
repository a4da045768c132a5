"""``agent``: messages of the ``packets`` topic into messages of the feature topics, on one core, without Kafka."""

from __future__ import annotations

import time
from dataclasses import replace

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.encode import kept_blocks, messages
from schemas.packets import decode_packet_batch
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan


def agent(corpus: Corpus, settings: StreamsSettings, partitions: int, min_seconds: float) -> Result:
    """Measure decoding and checking messages, the flow table, every representation and encoding its rows."""
    values = list(messages(kept_blocks(corpus), partitions))
    plan = Plan(settings)
    packets, octets = fold(values, plan, partitions)
    rate = measure(lambda: fold(values, plan, partitions)[0], min_seconds)
    return Result.of_rate("agent", rate, output_bytes_per_packet=round(octets / packets, 2))


def fold(values: list[bytes], plan: Plan, partitions: int) -> tuple[int, int]:
    """Fold messages into empty partitions; return the packets in them and the bytes of the rows' messages."""
    held = [Partition(plan, number) for number in range(partitions)]
    packets = octets = 0
    for value in values:
        received_ns = time.time_ns()
        batch = decode_packet_batch(value)
        packets += batch.packets
        for rows in held[batch.partition].apply(batch, received_ns, time.monotonic_ns()):
            octets += len(replace(rows, flows_sent_time_ns=time.time_ns()).encode())
    for partition in held:
        for rows in partition.end_all(0):
            octets += len(rows.encode())
    return packets, octets
