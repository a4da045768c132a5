"""What a stage counts about itself, and the ``CostTelemetry`` record made of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled

_SUB_BITS = 4
"""Each power of two is split into 16 buckets, so a quantile is off by at most 1/32 of its value."""
_SUB = 1 << _SUB_BITS
_BUCKETS = (64 - _SUB_BITS) * _SUB


def instance_name() -> str:
    """Return what tells this process from others: host name and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


@compiled
def _record_all(values_ns: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Count durations, and return their sum."""
    total = 0
    for i in range(len(values_ns)):
        value = max(np.int64(0), values_ns[i])
        total += value
        shift = 0
        while value >> shift >= 2 * _SUB:
            shift += 1
        counts[min(shift * _SUB + (value >> shift), _BUCKETS - 1)] += 1
    return total


class LatencyHistogram:
    """Counts of durations in buckets that grow with the value: bounded memory, quantiles within 1/32."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BUCKETS, dtype=np.int64)
        self.sum_ns = 0
        """Sum of the durations."""

    def record_ns(self, value_ns: int, count: int = 1) -> None:
        """Count one duration ``count`` times; a negative one (clocks apart) counts as 0."""
        value = max(0, int(value_ns))
        shift = max(0, value.bit_length() - _SUB_BITS - 1)
        self._counts[min(shift * _SUB + (value >> shift), _BUCKETS - 1)] += count
        self.sum_ns += value * count

    def record_many_ns(self, values_ns: NDArray[np.int64]) -> None:
        """Count many durations."""
        self.sum_ns += int(_record_all(np.ascontiguousarray(values_ns, np.int64), self._counts))

    def add(self, other: LatencyHistogram) -> None:
        """Count what another histogram has counted, too."""
        self._counts += other._counts
        self.sum_ns += other.sum_ns

    @property
    def count(self) -> int:
        """Return how many durations were counted."""
        return int(self._counts.sum())

    def below(self, bits: int) -> int:
        """Return how many durations were shorter than 2**bits ns: exact, since buckets end at powers of two."""
        return int(self._counts[: max(0, bits - _SUB_BITS + 1) * _SUB].sum())

    def quantile_ns(self, q: float) -> int | None:
        """Return the ``q`` quantile (0 to 1), or None where nothing was counted."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        rank = min(total, max(1, int(np.ceil(q * total))))
        at = int(np.searchsorted(np.cumsum(self._counts), rank))
        shift = max(0, at // _SUB - 1)
        low = (at - shift * _SUB) << shift
        return low + ((1 << shift) >> 1)

    def clear(self) -> None:
        """Forget everything."""
        self._counts[:] = 0
        self.sum_ns = 0


@dataclass
class Totals:
    """What a stage has done since its process began, as ``StageMeter.totals`` tells it."""

    items_in: int = 0
    items_out: int = 0
    cpu_ns: int = 0
    output_bytes: int = 0
    state_bytes: int = 0
    lag_records: int | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    gauges: dict[str, float] = field(default_factory=dict)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


class StageMeter:
    """Counts what one stage of this process does; ``snapshot`` tells it and starts the next interval.

    Args:
        stage: ``replay``, ``flows``, ``models`` or another stage.
        unit: what the items are: packets, rows, records.
        detail: probe, model or representation that the numbers are about.
        cpu_ns: the clock of the CPU time spent; the process's own by default.
    """

    def __init__(
        self, stage: str, unit: str, detail: str = "", cpu_ns: Callable[[], int] = time.process_time_ns
    ) -> None:
        self.stage, self.unit, self.detail = stage, unit, detail
        self.instance = instance_name()
        self._cpu_clock_ns = cpu_ns
        self.state_bytes = 0
        self.lag_records: int | None = None
        self._gauges: dict[str, float] = {}
        self._known: dict[str, int] = {}
        self.latency = LatencyHistogram()
        self._before = Totals()
        """Of the intervals that are over."""
        self._turning = threading.Lock()
        self._begin(time.time_ns())

    def _begin(self, now_ns: int) -> None:
        self._since_ns = now_ns
        self._cpu_ns = self._cpu_clock_ns()
        self.items_in = self.items_out = self.output_bytes = 0
        self._dropped: dict[str, int] = {}
        self._counters: dict[str, int] = {}
        self.latency.clear()

    def drop(self, reason: str, items: int = 1) -> None:
        """Count items dropped."""
        if items:
            self._dropped[reason] = self._dropped.get(reason, 0) + items

    def count(self, name: str, events: int = 1) -> None:
        """Count other events."""
        if events:
            self._counters[name] = self._counters.get(name, 0) + events

    def know(self, totals: Mapping[str, int]) -> None:
        """Take totals as counted already: what a process begins with."""
        self._known = dict(totals)

    def count_up_to(self, totals: Mapping[str, int]) -> None:
        """Count the events by which totals have grown since they were last told."""
        for name, total in totals.items():
            self.count(name, total - self._known.get(name, 0))
        self._known = dict(totals)

    def gauge(self, name: str, value: float | None) -> None:
        """Set a value as it stands now; it stays until it is set again, or taken away with None."""
        if value is None:
            self._gauges.pop(name, None)
        else:
            self._gauges[name] = float(value)

    def record_ns(self, latency_ns: int, count: int = 1) -> None:
        """Count the time from the probe to this stage's output, of ``count`` items."""
        self.latency.record_ns(latency_ns, count)

    def snapshot(self, now_ns: int | None = None) -> dict[str, Any]:
        """Return the interval since the last call as a ``CostTelemetry`` record, and begin the next.

        ``now_ns`` is the wall clock, ns since the Unix epoch. Gauges (also ``state_bytes``, ``lag_records``) stay.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        record: dict[str, Any] = {
            "schema_version": 2,
            "stage": self.stage,
            "instance": self.instance,
            "detail": self.detail,
            "time_ns": now_ns,
            "interval_ns": max(0, now_ns - self._since_ns),
            "unit": self.unit,
            "items_in": self.items_in,
            "items_out": self.items_out,
            "dropped": self._dropped,
            "counters": self._counters,
            "cpu_ns": self._cpu_clock_ns() - self._cpu_ns,
            "state_bytes": self.state_bytes,
            "output_bytes": self.output_bytes,
            "latency_p50_ns": self.latency.quantile_ns(0.5),
            "latency_p99_ns": self.latency.quantile_ns(0.99),
            "lag_records": self.lag_records,
            "gauges": dict(self._gauges),
        }
        with self._turning:
            self._add_interval(self._before, self._before)
            self._begin(now_ns)
        return record

    def totals(self) -> Totals:
        """Return what was counted since the start, this interval included. Any thread may ask."""
        out = Totals(state_bytes=self.state_bytes, lag_records=self.lag_records, gauges=self._gauges.copy())
        with self._turning:
            self._add_interval(self._before, out)
        return out

    def _add_interval(self, before: Totals, out: Totals) -> None:
        """Put into ``out`` what was counted ``before`` and in the present interval."""
        out.items_in = before.items_in + self.items_in
        out.items_out = before.items_out + self.items_out
        out.cpu_ns = before.cpu_ns + self._cpu_clock_ns() - self._cpu_ns
        out.output_bytes = before.output_bytes + self.output_bytes
        out.dropped = before.dropped + Counter(self._dropped)
        out.counters = before.counters + Counter(self._counters)
        if out is not before:
            out.latency.add(before.latency)
        out.latency.add(self.latency)
