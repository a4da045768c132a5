"""What a stage counts about itself, and the ``CostTelemetry`` record made of it."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SUB_BITS = 4
"""Each power of two is split into 16 buckets, so a quantile is off by at most 1/32 of its value."""
_SUB = 1 << _SUB_BITS
_BUCKETS = (64 - _SUB_BITS) * _SUB


def instance_name() -> str:
    """Return what tells this process from others: host name and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class LatencyHistogram:
    """Counts of durations in buckets that grow with the value: bounded memory, quantiles within 1/32."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BUCKETS, dtype=np.int64)

    def record_ns(self, value_ns: int, count: int = 1) -> None:
        """Count one duration ``count`` times; a negative one (clocks apart) counts as 0."""
        value = max(0, int(value_ns))
        shift = max(0, value.bit_length() - _SUB_BITS - 1)
        self._counts[min(shift * _SUB + (value >> shift), _BUCKETS - 1)] += count

    def record_many_ns(self, values_ns: NDArray[np.int64]) -> None:
        """Count many durations."""
        values = np.maximum(values_ns, 0)
        # frexp gives the number of significant bits; beyond 2**53 it may round up, by one bucket.
        bits = np.frexp(values.astype(np.float64))[1]
        shift = np.maximum(0, bits - _SUB_BITS - 1)
        at = np.minimum(shift * _SUB + (values >> shift), _BUCKETS - 1)
        self._counts += np.bincount(at, minlength=_BUCKETS)

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


class StageMeter:
    """Counts what one stage of this process does; ``snapshot`` tells it and starts the next interval.

    Args:
        stage: ``replay``, ``flows``, ``models`` or another stage.
        unit: what the items are: packets, rows, records.
        detail: probe, model or representation that the numbers are about.
    """

    def __init__(self, stage: str, unit: str, detail: str = "") -> None:
        self.stage, self.unit, self.detail = stage, unit, detail
        self.instance = instance_name()
        self.state_bytes = 0
        self.lag_records: int | None = None
        self._gauges: dict[str, float] = {}
        self.latency = LatencyHistogram()
        self._begin(time.time_ns())

    def _begin(self, now_ns: int) -> None:
        self._since_ns = now_ns
        self._cpu_ns = time.process_time_ns()
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
            "cpu_ns": time.process_time_ns() - self._cpu_ns,
            "state_bytes": self.state_bytes,
            "output_bytes": self.output_bytes,
            "latency_p50_ns": self.latency.quantile_ns(0.5),
            "latency_p99_ns": self.latency.quantile_ns(0.99),
            "lag_records": self.lag_records,
            "gauges": dict(self._gauges),
        }
        self._begin(now_ns)
        return record
