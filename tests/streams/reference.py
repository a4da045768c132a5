"""What the flows agent shall compute, in plain Python: slow, without arrays, and written from the docs.

It closes everything at the moment it is due and keeps every packet, where the kernel is lazy and keeps counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from schemas.flow_key import flow_id_of, probe_hash_of
from streams.config import RepresentationSettings, StreamsSettings
from tests.streams.made import ACK, FIN, RST, SYN, Flow, Made, flow_hash

IDLE, ACTIVE, ENDED, FORCED = 1, 2, 3, 4


class Seen(NamedTuple):
    """A packet within its flow."""

    packet: Made
    reverse: bool
    gap_ns: int
    depth: int


@dataclass
class Open:
    """An open flow."""

    flow: Flow
    first: Made
    last_ns: int
    seen: list[Seen] = field(default_factory=list)
    windows: dict[str, tuple[int, list[Seen]]] = field(default_factory=dict)
    """Start and packets of the open window of each representation."""
    fins: set[bool] = field(default_factory=set)
    ended: bool = False


@dataclass
class Expected:
    """A row: identity by column name, and the features."""

    representation: str
    identity: dict[str, Any]
    features: list[float]


Totals = dict[str, int]


def _totals(seen: Sequence[Seen]) -> Totals:
    fwd = [s.packet.octets for s in seen if not s.reverse]
    rev = [s.packet.octets for s in seen if s.reverse]
    return {
        "packets_fwd": len(fwd),
        "packets_rev": len(rev),
        "octets_fwd": sum(fwd),
        "octets_rev": sum(rev),
    }


def _per(amount: float, by: float) -> float:
    return amount / by if by else 0.0


def _padded(values: Sequence[float], size: int) -> list[float]:
    return [*values[:size], *[0.0] * (size - len(values))]


def totals(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    t = _totals(seen)
    seconds = duration_ns / 1e9
    return [
        seconds,
        *t.values(),
        _per(t["octets_fwd"], t["packets_fwd"]),
        _per(t["octets_rev"], t["packets_rev"]),
        _per(len(seen), seconds),
        _per(t["octets_fwd"] + t["octets_rev"], seconds),
    ]


def protocol(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    return [flow.protocol == 6, flow.protocol == 17, flow.ip_version == 6]


def size_statistics(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    sizes = [s.packet.octets for s in seen]
    return [statistics.fmean(sizes), statistics.pstdev(sizes), min(sizes), max(sizes)]


def gap_statistics(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    gaps = [s.gap_ns / 1e3 for s in seen if s.depth > 1]
    return [statistics.fmean(gaps), statistics.pstdev(gaps), max(gaps)] if gaps else [0.0, 0.0, 0.0]


def packet_sequence(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    return [
        *_padded([s.packet.octets for s in seen], depth),
        *_padded([-1.0 if s.reverse else 1.0 for s in seen], depth),
        *_padded([s.gap_ns / 1e3 for s in seen[1:]], depth - 1),
    ]


def flag_sequence(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    return _padded([float(s.packet.flags) for s in seen], depth)


def _firsts(seen: Sequence[Seen], value: Callable[[Made], int]) -> list[float]:
    return [
        next((value(s.packet) for s in seen if s.reverse == way and value(s.packet)), 0)
        for way in (False, True)
    ]


def ttl(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    return _firsts(seen, lambda p: p.ttl)


def tcp_window(seen: Sequence[Seen], flow: Flow, duration_ns: int, depth: int) -> list[float]:
    return _firsts(seen, lambda p: p.tcp_window)


FEATURES = {f.__name__: f for f in (
    totals, protocol, size_statistics, gap_statistics, packet_sequence, flag_sequence, ttl, tcp_window,
)}  # fmt: skip


class Reference:
    """The open flows of one probe in one partition."""

    def __init__(self, settings: StreamsSettings, probe: str = "p") -> None:
        self.settings = settings
        self.probe = probe_hash_of(probe)
        self.idle, self.active = (self._ns(s) for s in (settings.idle_timeout_s, settings.active_timeout_s))
        self.linger, self.lateness = (self._ns(s) for s in (settings.tcp_linger_s, settings.lateness_s))
        self.flows: dict[Flow, Open] = {}
        self.watermark: int | None = None
        self.rows: list[Expected] = []
        self.counts = dict.fromkeys(("flows_opened", "packets_late", "packets_reordered", "clock_steps"), 0)

    @staticmethod
    def _ns(seconds: float) -> int:
        return round(seconds * 1e9)

    @property
    def horizon(self) -> int:
        assert self.watermark is not None
        return self.watermark - self.lateness

    def feed(self, packets: Sequence[Made]) -> None:
        for packet in packets:
            self._packet(packet)

    def advance(self, watermark: int) -> None:
        self.watermark = max(self.watermark or 0, watermark)
        self._close_due()

    def end(self) -> None:
        if self.watermark is not None:
            self._close_due()
        for open_ in list(self.flows.values()):
            self._close(open_, FORCED, -math.inf)
        self.watermark = None

    def _packet(self, p: Made) -> None:
        if self.watermark is not None and p.time_ns < self.watermark - max(self.idle, self.lateness):
            self.counts["clock_steps"] += 1
            self.end()
        self.watermark = p.time_ns if self.watermark is None else max(self.watermark, p.time_ns)
        self._close_due()
        self.counts["packets_late"] += p.time_ns < self.horizon
        now = max(p.time_ns, self.horizon)
        found = self.flows.get(p.flow)
        if found:
            self._close_flow_if_over(found, now)
            if p.flow in self.flows and found.ended and p.flags & SYN and not p.flags & ACK:
                self._close(found, ENDED, now)
        found = self.flows.get(p.flow)
        if not found:
            found = self.flows[p.flow] = Open(p.flow, p, p.time_ns)
            self.counts["flows_opened"] += 1
        self._count(found, p, now)

    def _count(self, flow: Open, p: Made, now: int) -> None:
        self._close_windows(flow, now, 0)
        gap = p.time_ns - flow.last_ns
        self.counts["packets_reordered"] += gap < 0
        reverse = p.direction != flow.first.direction
        seen = Seen(p, reverse, max(gap, 0), len(flow.seen) + 1)
        flow.last_ns = max(flow.last_ns, p.time_ns)
        flow.seen.append(seen)
        for r in self.settings.representations:
            if r.kind == "window":
                start = now // r.every_ns * r.every_ns
                flow.windows.setdefault(r.name, (start, []))[1].append(seen)
            elif r.kind == "early" and len(flow.seen) in (r.depths or (1, r.depth)):
                self._emit(r, flow, flow.seen, flow.first.time_ns, flow.last_ns - flow.first.time_ns, 0)
        if p.flags & FIN:
            flow.fins.add(reverse)
        if p.flags & RST or len(flow.fins) == 2:
            flow.ended = True

    def _deadline(self, flow: Open) -> tuple[int, int]:
        """Return (time, reason) of the first of the flow's deadlines."""
        ways = [(flow.last_ns + self.idle, IDLE), (flow.first.time_ns + self.active, ACTIVE)]
        if flow.ended:
            ways.append((flow.last_ns + self.linger, ENDED))
        return min(ways)

    def _close_due(self) -> None:
        for flow in list(self.flows.values()):
            self._close_flow_if_over(flow, self.horizon)
        for flow in self.flows.values():
            self._close_windows(flow, self.horizon, 0)

    def _close_flow_if_over(self, flow: Open, now: int) -> None:
        deadline, reason = self._deadline(flow)
        if now > deadline:
            self._close(flow, reason, deadline)

    def _close(self, flow: Open, reason: int, at: float) -> None:
        self._close_windows(flow, at, 0)
        self._close_windows(flow, math.inf, reason)
        for r in self.settings.representations:
            if r.kind == "flow" or (r.ends and len(flow.seen) < r.depth):
                self._emit(r, flow, flow.seen, flow.first.time_ns, flow.last_ns - flow.first.time_ns, reason)
        del self.flows[flow.flow]

    def _close_windows(self, flow: Open, now: float, reason: int) -> None:
        for r in self.settings.representations:
            if r.name in flow.windows and flow.windows[r.name][0] + r.every_ns <= now:
                start, seen = flow.windows.pop(r.name)
                self._emit(r, flow, seen, start, r.every_ns, reason)

    def _emit(
        self, r: RepresentationSettings, flow: Open, seen: Sequence[Seen], start: int, span: int, reason: int
    ) -> None:
        ends = ("b", "a") if flow.first.direction else ("a", "b")
        ports = {"a": flow.flow.port_a, "b": flow.flow.port_b}
        flags = 0
        for s in seen:
            flags |= s.packet.flags
        identity = {
            "flow_id": int(flow_id_of(np.uint64(flow_hash(flow.flow)), self.probe, flow.first.time_ns)),
            "source_address": flow.flow.address(ends[0]),
            "destination_address": flow.flow.address(ends[1]),
            "source_port": ports[ends[0]],
            "destination_port": ports[ends[1]],
            "protocol": flow.flow.protocol,
            "ip_version": flow.flow.ip_version,
            "start_ns": flow.first.time_ns,
            "end_ns": flow.last_ns,
            "interval_start_ns": start,
            "depth": len(flow.seen),
            "flow_end_reason": reason,
            "tcp_flags": flags,
            **_totals(seen),
        }
        features: list[float] = []
        for name in r.features:
            features += map(float, FEATURES[name](seen, flow.flow, span, r.depth))
        self.rows.append(Expected(r.name, identity, features))
