"""What telemetry tells about each probe: how far its clock is off, how long it is silent, how often it began anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]

_HEARD, _SILENT, _RESTARTS = "probe_heard_s_", "probe_silent_s_", "probe_restarts_"


@dataclass
class ProbeState:
    """A probe, as far as any process tells; None and 0 where none does."""

    name: str
    clock_offset_s: float | None = None
    """Its clock less the broker's."""
    clock_error_s: float | None = None
    """The true difference is no further away than that."""
    heard_s: float | None = None
    """Since when the flows workers have had nothing of it; 0 once it has ended in order."""
    silent: bool = False
    """Whether every flows worker that knows it says that it is silent."""
    restarts: int = 0

    @property
    def clock(self) -> str:
        """Return the clock's offset with its bound, as ``+1.20 ± 0.65 ms``."""
        if self.clock_offset_s is None or self.clock_error_s is None:
            return "-"
        return f"{self.clock_offset_s * 1e3:+.2f} ± {self.clock_error_s * 1e3:.2f} ms"

    @property
    def problem(self) -> str:
        """Return what is wrong in a line, empty where nothing is."""
        return f"probe {self.name} is silent for {self.heard_s or 0:.0f} s" if self.silent else ""


def probe_states(sources: Iterable[Record], flows: Iterable[Record]) -> list[ProbeState]:
    """Return the probes by name.

    Args:
        sources: last records of processes that send packets.
        flows: last records of flows workers that run.
    """
    found: dict[str, ProbeState] = {}

    def state(name: str) -> ProbeState:
        return found.setdefault(name, ProbeState(name))

    for record in sources:
        gauges = record["gauges"]
        if "clock_offset_s" in gauges and "clock_error_s" in gauges:
            one = state(record["detail"] or record["stage"])
            # Of a probe's processes, the one that knows best.
            if one.clock_error_s is None or gauges["clock_error_s"] < one.clock_error_s:
                one.clock_offset_s, one.clock_error_s = gauges["clock_offset_s"], gauges["clock_error_s"]
    talking: set[str] = set()
    for record in flows:
        gauges = record["gauges"]
        for key in (key for key in gauges if key.startswith(_HEARD)):
            name = key.removeprefix(_HEARD)
            one, heard_s = state(name), gauges[key]
            one.heard_s = heard_s if one.heard_s is None else min(one.heard_s, heard_s)
            one.silent = True
            if f"{_SILENT}{name}" not in gauges:
                talking.add(name)
            one.restarts = max(one.restarts, int(gauges.get(f"{_RESTARTS}{name}", 0)))
    for name in talking:
        found[name].silent = False
    return [found[name] for name in sorted(found)]
