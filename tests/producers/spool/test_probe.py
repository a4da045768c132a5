"""A live probe behind a spool: what it saw is sent, kept or dropped, and telemetry says which."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from producers.config import BusSettings
from producers.probe.config import ProbeSettings
from producers.probe.run import Probe, ProbeOptions
from schemas.codec import decode
from schemas.errors import BusError
from schemas.packets import decode_packet_batch
from tests.producers.probe.fakes import FakeSource, LiveManualClock
from tests.producers.spool.fakes import World
from tests.producers.synthetic import packets

BUS = BusSettings(partitions=4)


def probe_of(clock: LiveManualClock, source: FakeSource) -> Probe:
    settings = ProbeSettings(interfaces=("eth0",), telemetry_interval_s=0.2, drain_timeout_s=0.1)
    return Probe([source], BUS, ProbeOptions("gate", settings), clock=clock)


def source_of(clock: LiveManualClock) -> FakeSource:
    return FakeSource(clock, [(n / 5, packets(100, flows=9, seed=n)) for n in range(10)])


def test_a_probe_that_stops_without_a_bus_keeps_what_it_saw(tmp_path: Path) -> None:
    clock, world = LiveManualClock(), World()
    world.up = False
    sink = world.sink(tmp_path, after_s=0)
    sink._clock = time.monotonic  # the end waits by the real clock
    probe = probe_of(clock, source_of(clock))
    meter = probe.attach(sink).meter
    summary = probe.run()
    sink.close()
    assert (summary.packets_seen, summary.packets_acked, summary.packets_kept) == (1000, 0, 1000)
    totals = meter.totals()
    assert totals.items_in == totals.items_out == totals.counters["spooled_packets"] == 1000
    assert totals.gauges["spool_bytes"] > 0 and not +totals.dropped

    world.up = True
    sink = world.sink(tmp_path)
    probe = probe_of(clock, FakeSource(clock, []))
    probe.attach(sink)
    probe.run()
    batches = [decode_packet_batch(m.value) for m in world.arrived if m.topic == "packets"]
    assert sum(b.packets for b in batches) == 1000
    assert [b.epoch for b in batches] == sorted(b.epoch for b in batches)
    records = [decode("CostTelemetry", m.value) for m in world.arrived if m.topic == "telemetry.cost"]
    assert sum(r["counters"].get("recovered_packets", 0) for r in records) == 1000
    sink.close()


def test_what_a_full_spool_drops_is_told_by_reason_and_partition(tmp_path: Path) -> None:
    clock, world = LiveManualClock(), World()
    world.up = False
    sink = world.sink(tmp_path, after_s=0, max_mbytes=1, memory_kbytes=1024)
    sink.queue._segment_bytes = 4000
    sink._clock = time.monotonic
    limit, sink._settings = sink._settings, sink._settings.model_copy(update={"max_mbytes": 0})
    assert limit.max_mbytes == 1
    probe = probe_of(clock, source_of(clock))
    meter = probe.attach(sink).meter
    with pytest.raises(BusError, match="not acknowledged"):
        probe.run()
    summary, totals = probe.summary, meter.totals()
    lost = totals.dropped["spool_full"]
    assert lost > 0 and summary.packets_kept + lost == summary.packets_seen == 1000
    assert sum(n for name, n in totals.counters.items() if name.startswith("dropped_partition_")) == lost
    sink.close()
