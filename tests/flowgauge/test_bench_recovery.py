"""The parts of the stages ``recovery`` and ``telemetry`` that need no broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowgauge.bench.corpus import make_corpus
from flowgauge.bench.stages.recovery import Busy, Feed, checkpoint_cost, while_busy
from flowgauge.bench.stages.telemetry import telemetry
from flowgauge.bench.synthetic import START_NS, busy_batch
from producers.config import BusSettings
from schemas.errors import BusError
from schemas.packets import MAX_PACKETS, decode_packet_batch
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan
from tests.flowgauge.test_bench import capture
from tests.producers.fakes import FakeSink

SECOND = 1_000_000_000


def record(items: int, saved: int = 0, seconds: float = 1.0) -> dict[str, Any]:
    counters = {"state_saved_bytes": saved} if saved else {}
    return {
        "items_in": items,
        "interval_ns": round(seconds * SECOND),
        "cpu_ns": SECOND // 2,
        "counters": counters,
    }


def test_intervals_that_may_be_half_idle_do_not_count() -> None:
    records = [record(0), record(5), record(100, 7), record(300, seconds=3), record(8), record(0)]
    assert while_busy(records) == Busy(packets=400, seconds=4.0, cpu_s=1.0, state_bytes=7)
    with pytest.raises(BusError, match="send more packets"):
        while_busy([record(5), record(5), record(0)])


def test_what_copies_cost_is_the_middle_of_the_pairs() -> None:
    plain = Busy(1000, 1.0, 1.0, 0)
    pairs = [
        (Busy(packets, 1.0, cpu_s, 10), plain) for packets, cpu_s in ((900, 1.0), (970, 1.0), (990, 1.1))
    ]
    result = checkpoint_cost(pairs, 5)
    assert (result.name, result.value, result.unit) == ("checkpoint_cost_percent", 3.0, "%")
    assert result.details["each"] == [10.0, 3.0, 1.0]
    assert (result.details["packets_per_s"], result.details["active_flows"]) == (970, 5)


def test_a_busy_batch_holds_each_flow_in_turn() -> None:
    batch = decode_packet_batch(busy_batch(1, 2, 7, 1000, 256, START_NS, 10).encode())
    assert (batch.packets, batch.flows, batch.sequence) == (MAX_PACKETS, 256, 7)
    assert batch.columns["flow_index"].tolist() == list(range(256)) * 8
    assert np.diff(batch.columns["time_ns"]).tolist() == [10] * (MAX_PACKETS - 1)


def test_a_backlog_keeps_all_flows_active() -> None:
    bus, sink = BusSettings(partitions=2), FakeSink()
    feed = Feed(bus, sink, flows=2000)
    packets = feed.backlog(40_000)
    assert 40_000 <= packets < 40_000 + 2 * MAX_PACKETS
    plan = Plan(StreamsSettings())
    held = [Partition(plan, number) for number in range(2)]
    for batch in sink.batches():
        packets -= batch.packets
        for _ in held[batch.partition].apply(batch, 1, 1):
            pass
    assert packets == 0
    assert [partition.active for partition in held] == [1000, 1000]


def test_telemetry_is_a_small_part(tmp_path: Path) -> None:
    with make_corpus([capture(tmp_path / "a.pcap", 3000)], target_packets=3000) as corpus:
        result = telemetry(corpus, StreamsSettings(), 2, passes=2)
    assert (result.name, result.unit) == ("telemetry_cost_percent", "%")
    assert 0 < result.value < 100
    assert result.details["messages"] >= 4
