"""What a measurement is: rounds timed by two clocks, and the line that a stage reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

REPEATS = 5


@dataclass(frozen=True)
class Rate:
    """Items per second over several repeats."""

    value: float
    """Median by the wall clock."""
    cpu_value: float
    """Median by the CPU time of this process: what a core of its own would give."""
    least: float
    most: float
    """Slowest and fastest repeat by the wall clock."""
    repeats: int


@dataclass
class Result:
    """One line of the report: a stage, what it reached, and what another program reached on the same input."""

    name: str
    value: float
    unit: str
    cpu_value: float | None = None
    """The same by CPU time, for machines that other programs use meanwhile."""
    spread: tuple[float, float] | None = None
    repeats: int = 1
    peer: str | None = None
    peer_value: float | None = None
    peer_cpu_value: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_rate(cls, name: str, rate: Rate, unit: str = "packets/s", **details: Any) -> Result:
        """Return the line of a rate."""
        return cls(
            name, rate.value, unit, rate.cpu_value, (rate.least, rate.most), rate.repeats, details=details
        )

    @property
    def ratio(self) -> float | None:
        """Return how many times the peer's value ours is."""
        return self.value / self.peer_value if self.peer_value else None

    def as_dict(self) -> dict[str, Any]:
        """Return the line for ``--json``: what was not measured is left out."""
        found = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "cpu_value": self.cpu_value,
            "spread": self.spread,
            "repeats": self.repeats,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "peer_cpu_value": self.peer_cpu_value,
            "ratio": self.ratio,
            **self.details,
        }
        return {name: value for name, value in found.items() if value is not None}


def measure(run: Callable[[], int], min_seconds: float, repeats: int = REPEATS) -> Rate:
    """Time ``run``, which returns how many items it did: each repeat calls it until ``min_seconds`` are over."""
    rates: list[tuple[float, float]] = []
    for _ in range(repeats):
        items, began_s, began_cpu_ns = 0, time.perf_counter(), time.process_time_ns()
        while True:
            items += run()
            took_s = time.perf_counter() - began_s
            if took_s >= min_seconds:
                break
        cpu_s = (time.process_time_ns() - began_cpu_ns) / 1e9
        rates.append((items / took_s, items / max(cpu_s, 1e-9)))
    walls = [wall for wall, _ in rates]
    return Rate(median(walls), median(cpu for _, cpu in rates), min(walls), max(walls), repeats)
