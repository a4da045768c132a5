"""The probe's loop with sources and a clock by hand: what is sent when, and what is counted."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from producers.config import BusSettings
from producers.first_packets import Selection
from producers.probe.config import ProbeSettings
from producers.probe.run import Probe, ProbeOptions
from schemas.codec import decode
from tests.producers.fakes import FakeSink
from tests.producers.probe.fakes import FakeSource, LiveManualClock
from tests.producers.synthetic import packets

BUS = BusSettings(partitions=4)


def probe_of(
    clock: LiveManualClock, *sources: FakeSource, selection: Selection | None = None, **settings: Any
) -> tuple[Probe, FakeSink]:
    options = ProbeOptions("gate", ProbeSettings(interfaces=("eth0",), **settings), selection=selection)
    probe, sink = Probe(sources, BUS, options, clock=clock), FakeSink(clock)  # type: ignore[arg-type]
    probe.attach(sink)
    return probe, sink


def test_every_packet_leaves_once_in_numbered_batches_that_say_where_it_was_seen() -> None:
    clock = LiveManualClock()
    one = FakeSource(clock, [(0, packets(3000, flows=50)), (0.5, packets(100, flows=9))], "eth0")
    two = FakeSource(clock, [(0.1, packets(500, flows=20))], "eth1")
    probe, sink = probe_of(clock, one, two)
    summary = probe.run()
    batches = sink.batches()
    by_point = {
        point: sum(b.packets for b in batches if b.observation_point == point) for point in ("eth0", "eth1")
    }
    assert by_point == {"eth0": 3100, "eth1": 500}
    for partition in range(4):
        mine = [b for b in batches if b.partition == partition]
        assert [b.sequence for b in mine] == list(range(len(mine)))
        assert [b.end_of_stream for b in mine] == [False] * (len(mine) - 1) + [True]
    assert {(b.probe, b.replayed, b.epoch) for b in batches} == {("gate", False, probe.epoch)}
    assert (summary.packets_seen, summary.sent.packets_sent, summary.packets_acked) == (3600, 3600, 3600)
    assert one.stopped and one.closed and two.closed


def test_a_packet_waits_no_longer_than_the_linger() -> None:
    clock = LiveManualClock()
    probe, sink = probe_of(
        clock, FakeSource(clock, [(0, packets(10, flows=3)), (1.0, packets(1, flows=1))]), linger_ms=20
    )
    probe.run()
    first = next(m for m in sink.messages if m.topic == "packets")
    assert first.wall_ns - clock.start_ns <= 20_000_000


def test_what_the_kernel_dropped_is_seen_and_dropped_in_telemetry() -> None:
    clock = LiveManualClock()
    source = FakeSource(clock, [(0, packets(10, flows=3)), (0.3, packets(10, flows=3))])
    source.dropped = 7
    probe, sink = probe_of(clock, source, telemetry_interval_s=0.1)
    summary = probe.run()
    records = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert {r["stage"] for r in records} == {"probe"}
    assert sum(r["items_in"] for r in records) == 27 and sum(r["items_out"] for r in records) == 20
    assert sum(r["dropped"].get("kernel_dropped", 0) for r in records) == 7
    assert records[-1]["gauges"]["up_eth0"] == 1.0
    assert summary.as_dict()["kernel_dropped"] == 7


def test_of_each_source_the_first_packets_of_each_flow_are_sent_and_the_others_counted() -> None:
    clock = LiveManualClock()
    block = packets(350, flows=6, step_ns=1000)
    block.tcp_flags[:] = 16
    one = FakeSource(clock, [(0, block.head(300)), (0.2, block.part(300, 350))], "eth0")
    two = FakeSource(clock, [(0.1, block.head(300))], "eth1")
    probe, sink = probe_of(clock, one, two, selection=Selection(5), telemetry_interval_s=0.1)
    summary = probe.run()
    by_point = {
        p: sum(b.packets for b in sink.batches() if b.observation_point == p) for p in ("eth0", "eth1")
    }
    assert by_point == {"eth0": 30, "eth1": 30}
    told = summary.as_dict()["packets"]
    assert (told["seen"], told["sent"], told["acked"], told["left_out"]) == (650, 60, 60, 590)
    records = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert sum(r["counters"].get("packets_left_out", 0) for r in records) == 590
    assert sum(r["items_in"] for r in records) == 650 and sum(r["items_out"] for r in records) == 60


def test_flows_forgotten_for_want_of_room_are_counted() -> None:
    clock = LiveManualClock()
    probe, sink = probe_of(
        clock, FakeSource(clock, [(0, packets(500, flows=200))]), selection=Selection(5, max_flows=16)
    )
    probe.run()
    records = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert sum(r["counters"].get("flows_evicted", 0) for r in records) > 100


def test_a_clock_that_jumps_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = LiveManualClock()
    source = FakeSource(clock, [(0, packets(10, flows=3)), (1.0, packets(10, flows=3))])
    probe, _ = probe_of(clock, source)

    def jump() -> None:
        if clock.passed_ns > 500_000_000:
            clock.stepped_ns = -3_000_000_000

    with caplog.at_level(logging.WARNING, "flowgauge.probe"):
        summary = probe.run(jump)
    assert summary.events["clock_steps"] == 1
    assert "the clock was set -3.000 s" in caplog.text


def test_a_stop_sends_what_was_taken_in() -> None:
    clock, stop = LiveManualClock(), threading.Event()
    source = FakeSource(clock, [(0, packets(10, flows=3)), (1e6, packets(1, flows=1))])
    options = ProbeOptions("gate", ProbeSettings(interfaces=("eth0",), linger_ms=1000))
    probe, sink = Probe([source], BUS, options, stop=stop, clock=clock), FakeSink(clock)  # type: ignore[list-item,arg-type]
    probe.attach(sink)
    summary = probe.run(stop.set)
    assert (summary.sent.packets_sent, summary.packets_acked) == (10, 10)
    assert sum(b.end_of_stream for b in sink.batches()) == 4


def test_reloaded_settings_are_taken_in_or_named() -> None:
    clock = LiveManualClock()
    source = FakeSource(clock, [(0, packets(10, flows=3))])
    probe, _ = probe_of(clock, source)
    new = ProbeSettings(interfaces=("eth0",), filter="udp", ring_mbytes=8, names=True, log_level="error")
    assert probe.reload(new) == ["names", "ring_mbytes"]
    assert source.reloaded[-1].filter == "udp"
    assert probe.reload(new) == ["names", "ring_mbytes"]
    assert logging.getLogger("flowgauge.probe").level == logging.ERROR
    logging.getLogger("flowgauge.probe").setLevel(logging.NOTSET)
