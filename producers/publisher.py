"""Puts batches and telemetry of a replay or a live probe on their topics, and keeps the meters of both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from producers.bus import Sink, TimedSink
from producers.config import BusSettings, topic_name
from producers.first_packets import FirstPackets
from producers.health import Backlog, Health
from producers.payloads.sampler import DROPS as PAYLOAD_DROPS
from producers.payloads.stream import PayloadStream
from producers.spool.open import drops, gauges
from producers.spool.open import events as spool_events
from producers.spool.sink import SpoolSink
from producers.telemetry import StageMeter
from schemas.codec import encode
from schemas.flow_key import partition_of
from schemas.packets import PacketBatch
from schemas.payloads import PayloadBatch
from schemas.topics import PACKETS, PACKETS_FIELDS, PAYLOADS, TELEMETRY_COST

Admit = Callable[[str, int, int], None]
"""Asked before a batch leaves, with topic, partition and bytes; returns when it may."""


class Publisher:
    """The way out of one process that produces packets.

    Args:
        stage: name of the stage in telemetry.
        bus: names of the topics.
        sink: where messages go.
        wall_ns: the wall clock, ns since the Unix epoch.
        stall_s: see ``Health``.
        admit: flow control for a broker that does not keep what is not consumed (the embedded one).
    """

    def __init__(
        self,
        stage: str,
        bus: BusSettings,
        sink: Sink,
        wall_ns: Callable[[], int],
        stall_s: float,
        admit: Admit | None = None,
    ) -> None:
        self.sink = sink
        self.health = Health(stall_s)
        self._payloads: list[PayloadStream] = []
        self._first: list[FirstPackets] = []
        self.meter = StageMeter(
            stage, "packets", cpu_ns=lambda: time.process_time_ns() - self._payload_cpu_ns()
        )
        self.payload_meter: StageMeter | None = None
        self.end_marks = 0
        self.payload_counts: Counter[str] = Counter()
        """Of the payloads: what was chosen and why not, what was sent (see ``ReplaySummary.payloads``)."""
        self._wall_ns, self._admit = wall_ns, admit
        self._packets_topic, self._payloads_topic = topic_name(bus, PACKETS), topic_name(bus, PAYLOADS)
        self._partitions, self._fields_topic = bus.partitions, topic_name(bus, PACKETS_FIELDS)
        self._telemetry_topic = topic_name(bus, TELEMETRY_COST)
        self._backlog = Backlog()
        self._told: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._sampled: Counter[str] = Counter()
        self._left_out = self._evicted = 0

    @property
    def meters(self) -> list[StageMeter]:
        """The meters of the stages that run here."""
        return [self.meter] if self.payload_meter is None else [self.meter, self.payload_meter]

    def add_payloads(self, stream: PayloadStream) -> None:
        """Count a stream of payloads, which has a meter of its own."""
        if self.payload_meter is None:
            self.payload_meter = StageMeter("payloads", "packets", cpu_ns=self._payload_cpu_ns)
        self._payloads.append(stream)
        self.payload_meter.state_bytes += stream.state_bytes

    def add_first(self, first: FirstPackets) -> None:
        """Count the packets that are left out by ``first``."""
        self._first.append(first)
        self.meter.state_bytes += first.state_bytes

    def _payload_cpu_ns(self) -> int:
        return sum(stream.cpu_ns for stream in self._payloads)

    def send(self, batch: PacketBatch) -> None:
        """Send a packet batch."""
        value = batch.sealed(self._wall_ns()).encode()
        if self._admit is not None:
            self._admit(self._packets_topic, batch.partition, len(value))
        self.sink.produce(self._packets_topic, value, batch.partition, items=batch.packets)
        self.end_marks += batch.end_of_stream
        self.meter.items_out += batch.packets
        self.meter.output_bytes += len(value)

    def send_payloads(self, batch: PayloadBatch) -> None:
        """Send a batch of payloads."""
        value = batch.sealed(self._wall_ns()).encode()
        if self._admit is not None:
            self._admit(self._payloads_topic, batch.partition, len(value))
        self.sink.produce(self._payloads_topic, value, batch.partition)
        counts, meter = self.payload_counts, self.payload_meter
        counts["sent"] += batch.rows
        counts["messages"] += 1
        counts["message_bytes"] += len(value)
        if meter is not None:
            meter.items_out += batch.rows
            meter.output_bytes += len(value)

    def send_fields(self, probe: str, records: Sequence[dict[str, Any]]) -> None:
        """Send what a dissector told of packets, each beside its flow."""
        items = []
        for record in records:
            flow_hash = record.pop("flow_hash")
            partition = int(partition_of(np.uint64(flow_hash), self._partitions))
            value = encode("PacketFields", {"probe": probe, **record})
            items.append((value, partition, f"{flow_hash:016x}"))
            self.meter.output_bytes += len(value)
        if items:
            self.sink.produce_items(self._fields_topic, items)

    def tell(self, frames: Mapping[str, int], events: Mapping[str, int], now_ns: int) -> None:
        """Bring the meters up to what was read, skipped and not delivered, and how long answers take.

        Args:
            frames: since the start, the frames read (``read``) and, by reason, those that gave no packet.
            events: since the start, other counts by name.
            now_ns: a clock that never goes back.
        """
        sink, meter = self.sink, self.meter
        waiting = sink.outstanding
        undelivered = {"not_delivered": sink.failed_items}
        if isinstance(sink, SpoolSink):
            # What waits on disk is as well as can be: no reason to say that the process does not get on.
            undelivered, events, waiting = drops(sink), {**events, **spool_events(sink)}, 0
            for name, value in gauges(sink).items():
                meter.gauge(name, value)
        counts = Counter(frames) + Counter(undelivered)
        new, self._told = counts - self._told, counts
        meter.items_in += new.pop("read", 0)
        for reason, packets in new.items():
            meter.drop(reason, packets)
        counted = Counter(events)
        for name, count in (counted - self._events).items():
            meter.count(name, count)
        self._events = counted
        self.tell_payloads()
        self._tell_first()
        self._tell_clock()
        answered = sink.acked + sink.failed
        meter.lag_records = sink.outstanding
        meter.gauge("lag_s", self._backlog.age_ns(sink.sent, answered, now_ns) / 1e9)
        self.health.tick(waiting, answered)

    def _tell_first(self) -> None:
        left_out, evicted = (
            sum(first.left_out for first in self._first),
            sum(first.flows_evicted for first in self._first),
        )
        self.meter.count("packets_left_out", left_out - self._left_out)
        self.meter.count("flows_evicted", evicted - self._evicted)
        self._left_out, self._evicted = left_out, evicted

    def _tell_clock(self) -> None:
        if not isinstance(self.sink, TimedSink):
            return
        clock = self.sink.clock
        estimate = clock.estimate(self._wall_ns())
        if estimate is not None:
            self.meter.gauge("clock_offset_s", estimate.offset_ns / 1e9)
            self.meter.gauge("clock_error_s", estimate.error_ns / 1e9)
        self.meter.gauge("clock_contradictions", clock.steps or None)

    def tell_payloads(self) -> None:
        """Bring the payloads' meter and counts up to what was chosen and what not, and why."""
        if self.payload_meter is None:
            return
        counts = sum((stream.counts() for stream in self._payloads), Counter[str]())
        new, self._sampled = counts - self._sampled, counts
        self.payload_counts.update(new)
        self.payload_meter.items_in += new["packets"]
        for reason in PAYLOAD_DROPS:
            self.payload_meter.drop(reason, new[reason])
        for name in ("empty", "not_chosen", "octets", "flows_evicted"):
            self.payload_meter.count(name, new[name])

    def telemetry(self) -> None:
        """Publish what the meters counted since the last call."""
        for meter in self.meters:
            value = encode("CostTelemetry", meter.snapshot(self._wall_ns()))
            if isinstance(self.sink, TimedSink):
                self.sink.produce_timed(self._telemetry_topic, value, 0, meter.stage)
            else:
                self.sink.produce(self._telemetry_topic, value, 0, meter.stage)
