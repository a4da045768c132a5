"""One partition of the ``packets`` topic: batches in, feature batches out, each batch counted once.

This is the pure core of the flows agent. It knows neither Kafka nor the wall clock: the caller says what time
it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.features import FeatureBatch
from schemas.packets import PacketBatch
from streams.config import StreamsSettings
from streams.paths import PathJoin
from streams.plan import Plan
from streams.probe_flows import ProbeFlows, Rows

EPOCHS_KEPT = 16
"""Epochs per probe whose sequence is remembered: a redelivery reaches back over one restart, rarely two, and a probe
has as many epochs at a time as processes, eight at most."""


@dataclass
class ProbeState:
    """What a partition knows of one probe."""

    flows: ProbeFlows
    sequences: dict[int, int]
    """Last sequence number by epoch, newest epoch last."""
    heard_ns: int
    """When a batch last came, by the caller's monotonic clock."""
    replayed: bool = False
    ended: bool = False
    """Whether the newest batch was the last of its epoch."""
    packets: int = 0
    """Folded in so far."""


class Partition:
    """Flow state of one partition, for all its probes."""

    def __init__(self, plan: Plan, partition: int) -> None:
        """Start without state."""
        self.plan = plan
        self.partition = partition
        self.probes: dict[str, ProbeState] = {}
        self.counters: Counter[str] = Counter()
        self.paths = _path_join(plan.settings)

    @property
    def active(self) -> int:
        """Return the number of open flows."""
        return sum(p.flows.active for p in self.probes.values())

    @property
    def state_bytes(self) -> int:
        """Return the memory that the flows have touched."""
        return sum(p.flows.state_bytes for p in self.probes.values())

    def packets_by_service(self, probe: str) -> list[int]:
        """Return the packets of a probe by service, those of none first; all of them where none is named."""
        known = self.probes.get(probe)
        if known is None:
            return [0] * (len(self.plan.services) + 1)
        if not self.plan.services:
            return [known.packets]
        usage: list[int] = known.flows.usage[:, 0].tolist()
        return usage

    def counts(self) -> Counter[str]:
        """Return all counters by name, those of the flow tables included."""
        total = self.counters.copy()
        if self.paths is not None:
            total.update(self.paths.counters)
        for name, probe in self.probes.items():
            total.update(probe.flows.counts())
            total.update(self._usage(name, probe.flows.usage))
        return total

    def _usage(self, probe: str, usage: NDArray[np.int64]) -> dict[str, int]:
        """Return what flows of each service sent; what belongs to none is told per probe."""
        out: dict[str, int] = {}
        for name, counted in zip(("", *self.plan.services), usage.tolist(), strict=True):
            of = f"service_{name}" if name else f"unknown_{probe}"
            if self.plan.services:
                out.update(
                    {
                        f"{of}_{what}": n
                        for what, n in zip(("packets", "octets", "flows"), counted, strict=True)
                    }
                )
        return out

    def forget_counts(self) -> None:
        """Set all counters to 0: a restored partition counts what its new worker does."""
        self.counters.clear()
        if self.paths is not None:
            self.paths.counters.clear()
        for probe in self.probes.values():
            probe.flows.counters[:] = 0
            probe.flows.clock_steps = 0
            probe.flows.usage[:] = 0

    def apply(self, batch: PacketBatch, received_time_ns: int, monotonic_ns: int) -> Iterator[FeatureBatch]:
        """Fold a batch in and yield the rows it makes due; a batch seen before changes nothing.

        Args:
            batch: a checked batch (see ``schemas.packets.decode_packet_batch``).
            received_time_ns: wall clock, for the rows' stage times.
            monotonic_ns: the clock by which ``tick`` knows how long a probe has been silent.
        """
        probe = self._probe(batch, monotonic_ns)
        if not self._is_new(probe, batch):
            return
        self.counters["batches"] += 1
        self.counters["packets"] += batch.packets
        probe.packets += batch.packets
        for missing in self.plan.missing(batch):
            self.counters[f"packets_without_{missing}"] += batch.packets
        for rows in probe.flows.apply(batch.columns):
            yield self._feature_batch(batch.probe, probe, rows, batch, received_time_ns)
        if batch.end_of_stream:
            self.counters["streams_ended"] += 1
            for rows in probe.flows.end_all():
                yield self._feature_batch(batch.probe, probe, rows, batch, received_time_ns)

    def joined(self, batch: FeatureBatch) -> list[dict[str, Any]]:
        """Return the ``FlowPath`` records that a feature batch of this partition completes."""
        if self.paths is None or batch.representation != self.plan.settings.path_representation:
            return []
        return self.paths.add(batch)

    def tick(self, now_time_ns: int, monotonic_ns: int) -> Iterator[FeatureBatch]:
        """Let event time go on by the wall clock for probes that have fallen silent, and close what is due."""
        silence_ns = round(self.plan.settings.silence_s * 1e9)
        for name, probe in self.probes.items():
            silent_ns = monotonic_ns - probe.heard_ns
            if silent_ns < silence_ns or probe.flows.active == 0:
                continue
            # Half of the silence is believed: what comes after it is then seldom late.
            watermark = probe.flows.watermark_ns + silent_ns // 2
            probe.heard_ns = monotonic_ns - silent_ns // 2
            for rows in probe.flows.advance(watermark):
                yield self._feature_batch(name, probe, rows, None, now_time_ns)

    def restart_silence(self, monotonic_ns: int) -> None:
        """Take every probe for just heard of: while the broker is away, silence is not theirs."""
        for probe in self.probes.values():
            probe.heard_ns = monotonic_ns

    def end_all(self, now_time_ns: int) -> Iterator[FeatureBatch]:
        """End every flow of every probe, as at the end of a capture."""
        for name, probe in self.probes.items():
            for rows in probe.flows.end_all():
                yield self._feature_batch(name, probe, rows, None, now_time_ns)

    def _probe(self, batch: PacketBatch, monotonic_ns: int) -> ProbeState:
        probe = self.probes.get(batch.probe)
        if probe is None:
            probe = ProbeState(ProbeFlows(self.plan, batch.probe), {}, monotonic_ns)
            self.probes[batch.probe] = probe
        probe.heard_ns = monotonic_ns
        probe.replayed, probe.ended = batch.replayed, batch.end_of_stream
        return probe

    def _is_new(self, probe: ProbeState, batch: PacketBatch) -> bool:
        """Check and note the batch's sequence number; count what is missing or comes again."""
        last = probe.sequences.pop(batch.epoch, -1)
        probe.sequences[batch.epoch] = max(last, batch.sequence)
        if len(probe.sequences) > EPOCHS_KEPT:
            del probe.sequences[next(iter(probe.sequences))]
        if batch.sequence <= last:
            self.counters["batches_duplicate"] += 1
            self.counters["packets_duplicate"] += batch.packets
            return False
        self.counters["batches_missing"] += batch.sequence - last - 1
        if batch.partition != self.partition:
            self.counters["batches_misplaced"] += 1
        return True

    def _feature_batch(
        self, name: str, probe: ProbeState, rows: Rows, cause: PacketBatch | None, received_time_ns: int
    ) -> FeatureBatch:
        number, columns = rows
        columns = probe.flows.told(columns)
        representation = self.plan.representations[number]
        self.counters[f"rows_{representation.name}"] += len(columns["flow_id"])
        return FeatureBatch(
            probe=name,
            representation=representation.name,
            partition=self.partition,
            feature_names=representation.names,
            columns=columns,
            source_epoch=cause.epoch if cause else 0,
            source_sequence=cause.sequence if cause else -1,
            probe_time_ns=cause.sent_time_ns if cause else received_time_ns,
            flows_received_time_ns=received_time_ns,
            replayed=probe.replayed,
        )


def _path_join(settings: StreamsSettings) -> PathJoin | None:
    if settings.path_join == "off":
        return None
    window_ns, hold_ns = (round(s * 1e9) for s in (settings.path_window_s, settings.path_hold_s))
    depth = next((min(r.row_depths) for r in settings.representations if r.kind == "early"), 1)
    return PathJoin(settings.path_join, window_ns, hold_ns, settings.path_max_flows, depth)
