"""Which probes are heard of: one that falls silent without an end, or begins anew without one, is noticed and told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.packets import PacketBatch

log = logging.getLogger("flowgauge")

MAX_PROBES = 256
"""Most probes that are told by name; those beyond are counted alone."""

ONE_LIFE_NS = 2_000_000_000
"""Epochs are times of starts. Those so near to each other are of one probe's processes, or of a replay's loops."""

Gauge = Callable[[str, float | None], None]


@dataclass
class _Heard:
    epoch: int
    heard_ns: int
    """By a clock that never goes back."""
    ended: bool = False
    """Whether its newest epoch was ended in order: then it may be silent."""
    silent: bool = False
    restarts: int = 0


class ProbeWatch:
    """What one worker hears of each probe, over all of its partitions."""

    def __init__(self, silence_ns: int) -> None:
        """Tell a probe silent that was not heard of for ``silence_ns``."""
        self.counters: Counter[str] = Counter()
        self._silence_ns = silence_ns
        self._probes: dict[str, _Heard] = {}
        self._told: set[str] = set()

    def heard(self, batch: PacketBatch, now_ns: int) -> None:
        """Take in that a batch came."""
        self._hear(batch.probe, batch.epoch, batch.end_of_stream, now_ns)

    def known(self, probe: str, epoch: int, ended: bool, now_ns: int) -> None:
        """Take in a probe of a former worker: silence counts from now on."""
        self._hear(probe, epoch, ended, now_ns)

    def _hear(self, name: str, epoch: int, ends: bool, now_ns: int) -> None:
        probe = self._probes.get(name)
        if probe is None:
            self._probes[name] = _Heard(epoch, now_ns, ends)
            return
        if epoch > probe.epoch:
            if not probe.ended and epoch - probe.epoch > ONE_LIFE_NS:
                probe.restarts += 1
                self.counters["probe_restarts"] += 1
                log.warning(
                    "probe %s began anew without having ended: it was restarted, or lost its end", name
                )
            probe.epoch, probe.ended = epoch, ends
        elif epoch == probe.epoch:
            probe.ended = probe.ended or ends
        if probe.silent:
            probe.silent = False
            log.warning("probe %s is heard again after %.1f s", name, (now_ns - probe.heard_ns) / 1e9)
        probe.heard_ns = now_ns

    def restart_silence(self, now_ns: int) -> None:
        """Count the silence of who is not silent yet from now on: nobody is heard while the broker is away."""
        for probe in self._probes.values():
            if not probe.silent:
                probe.heard_ns = now_ns

    def look(self, now_ns: int, *, behind: bool) -> None:
        """Notice who is silent; what waits on the bus may be theirs, so nobody is while this worker is ``behind``."""
        for name, probe in self._probes.items():
            if behind and not probe.silent:
                probe.heard_ns = max(probe.heard_ns, now_ns - self._silence_ns)
            elif not (probe.silent or probe.ended) and now_ns - probe.heard_ns >= self._silence_ns:
                probe.silent = True
                self.counters["probe_silences"] += 1
                log.warning("probe %s is silent for %.1f s", name, (now_ns - probe.heard_ns) / 1e9)

    def tell(self, gauge: Gauge, now_ns: int) -> None:
        """Set the gauges: ``probes``, ``probes_silent``, and of each probe how long it is silent and its restarts."""
        gauge("probes", len(self._probes))
        gauge("probes_silent", sum(p.silent for p in self._probes.values()))
        gauge("probes_restarted", sum(p.restarts > 0 for p in self._probes.values()))
        told = dict(self._of_each(now_ns))
        for name in self._told - told.keys():
            gauge(name, None)
        self._told = set(told)
        for name, value in told.items():
            gauge(name, value)

    def _of_each(self, now_ns: int) -> Iterator[tuple[str, float]]:
        for name, probe in list(self._probes.items())[:MAX_PROBES]:
            yield f"probe_heard_s_{name}", 0.0 if probe.ended else (now_ns - probe.heard_ns) / 1e9
            if probe.silent:
                yield f"probe_silent_s_{name}", (now_ns - probe.heard_ns) / 1e9
            if probe.restarts:
                yield f"probe_restarts_{name}", float(probe.restarts)
