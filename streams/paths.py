"""The same flow seen at two gateways: rows of different probes joined by their five-tuple and their start.

A flow's partition is that of its five-tuple, whatever the probe, so both rows come to one worker. The row that comes
first waits for the other. How long is counted in event time of its own probe, so that a probe that lags, or whose clock
is off, does not end the waiting of another's rows; how many may wait is bounded.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Array
from schemas.community_id import address_text, community_id
from schemas.features import FeatureBatch
from schemas.flow_key import format_flow_id

PathKind = Literal["early", "flow"]

MAX_PROBES = 64
"""Most probes whose flows are joined in a partition; those beyond are counted."""
_KEY = np.dtype(
    [
        ("source_address", "u1", 16),
        ("destination_address", "u1", 16),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("ip_version", "u1"),
    ]
)
_COUNTS = ("packets_fwd", "packets_rev", "octets_fwd", "octets_rev")
SAVED = np.dtype(
    [
        ("key", f"V{_KEY.itemsize}"),
        ("probe", "u1"),
        ("met", "<u8"),
        ("flow_id", "<u8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        *((name, "<u8") for name in _COUNTS),
    ]
)
"""A waiting row as it is left to the next worker."""


class Seen:
    """A flow as one probe saw it."""

    __slots__ = ("counts", "end_ns", "flow_id", "key", "met", "probe", "start_ns")

    def __init__(
        self,
        key: bytes,
        probe: int,
        flow_id: int,
        start_ns: int,
        end_ns: int,
        counts: tuple[int, ...],
        met: int = 0,
    ) -> None:
        self.key, self.probe, self.flow_id, self.counts = key, probe, flow_id, counts
        self.start_ns, self.end_ns = start_ns, end_ns
        self.met = met
        """Bit n: it was joined with a row of probe n."""


class PathState(NamedTuple):
    """What waits, for the next worker."""

    probes: list[str]
    rows: NDArray[np.void]


class PathJoin:
    """Joins rows of one partition.

    Args:
        kind: ``early`` takes a flow's first rows, ``flow`` those at its end.
        window_ns: most time between a flow's starts at two probes.
        hold_ns: event time of a probe after which its row waits no longer.
        max_rows: most rows that wait; beyond, the one that came first goes.
        depth: packets after which an early row is the flow's first.
    """

    def __init__(self, kind: PathKind, window_ns: int, hold_ns: int, max_rows: int, depth: int = 1) -> None:
        self.kind, self._depth = kind, depth
        self.counters: Counter[str] = Counter()
        self._window_ns, self._hold_ns, self._max_rows = window_ns, hold_ns, max_rows
        self._probes: list[str] = []
        self._waiting: dict[bytes, list[Seen]] = {}
        self._order: dict[int, deque[Seen]] = {}
        """Rows by probe, in the order in which they came."""
        self._count = 0

    @property
    def waiting(self) -> int:
        """Return how many rows wait."""
        return self._count

    def add(self, batch: FeatureBatch) -> list[dict[str, Any]]:
        """Take rows in; return a ``FlowPath`` record of each pair that they complete, in the order of the rows."""
        rows = self._rows(batch)
        if not len(rows):
            return []
        probe = self._number(batch.probe)
        if probe is None:
            self.counters["paths_of_too_many_probes"] += len(rows)
            return []
        out = []
        for seen in _seen(batch.columns, rows, probe):
            for other in self._partners(seen):
                out.append(self._record(seen, other))
            self._keep(seen)
        self.counters["paths"] += len(out)
        return out

    def _rows(self, batch: FeatureBatch) -> NDArray[np.intp]:
        """Return the places of the rows that stand for a flow: the first row, or that of its end."""
        ended = batch.columns["flow_end_reason"] > 0
        wanted = ended if self.kind == "flow" else (batch.columns["depth"] == self._depth) & ~ended
        return np.flatnonzero(wanted)

    def _number(self, probe: str) -> int | None:
        if probe not in self._probes:
            if len(self._probes) == MAX_PROBES:
                return None
            self._probes.append(probe)
        return self._probes.index(probe)

    def _partners(self, seen: Seen) -> Iterator[Seen]:
        """Yield of each other probe the row whose start is nearest, if one is near enough and not joined yet."""
        best: dict[int, Seen] = {}
        for other in self._waiting.get(seen.key, ()):
            apart_ns = abs(other.start_ns - seen.start_ns)
            if other.probe == seen.probe or apart_ns > self._window_ns or other.met >> seen.probe & 1:
                continue
            known = best.get(other.probe)
            if known is None or apart_ns < abs(known.start_ns - seen.start_ns):
                best[other.probe] = other
        for number, other in sorted(best.items()):
            other.met |= 1 << seen.probe
            seen.met |= 1 << number
            yield other

    def _keep(self, seen: Seen) -> None:
        mine = self._order.setdefault(seen.probe, deque())
        # The clock of a probe that stepped back begins anew with it.
        while mine and abs(seen.end_ns - mine[0].end_ns) > self._hold_ns:
            self._forget(mine, "paths_alone")
        while self._count >= self._max_rows:
            oldest = max(self._order.values(), key=len)
            self._forget(oldest, "paths_evicted")
        mine.append(seen)
        self._waiting.setdefault(seen.key, []).append(seen)
        self._count += 1

    def _forget(self, rows: deque[Seen], reason: str) -> None:
        """Let the first of rows go; those that met no other are counted."""
        gone = rows.popleft()
        self._count -= 1
        here = self._waiting[gone.key]
        here.remove(gone)
        if not here:
            del self._waiting[gone.key]
        if not gone.met:
            self.counters[reason] += 1

    def _record(self, seen: Seen, other: Seen) -> dict[str, Any]:
        # Of two at the same instant, the names decide, so that it does not matter whose row came first.
        name = self._probes
        first, second = sorted((seen, other), key=lambda one: (one.start_ns, name[one.probe]))
        (key,) = np.frombuffer(first.key, _KEY)
        source, destination = key["source_address"].tobytes(), key["destination_address"].tobytes()
        ports = int(key["source_port"]), int(key["destination_port"])
        protocol, version = int(key["protocol"]), int(key["ip_version"])
        return {
            "schema_version": 1,
            "community_id": community_id(source, destination, *ports, protocol, version),
            "probe": name[first.probe],
            "other_probe": name[second.probe],
            "flow_id": format_flow_id(first.flow_id),
            "other_flow_id": format_flow_id(second.flow_id),
            "source_address": address_text(source, version),
            "destination_address": address_text(destination, version),
            "source_port": ports[0],
            "destination_port": ports[1],
            "protocol": protocol,
            "start_ns": first.start_ns,
            "gap_ns": second.start_ns - first.start_ns,
            "ended": self.kind == "flow",
            **dict(zip(_COUNTS, first.counts, strict=True)),
            **{f"other_{n}": count for n, count in zip(_COUNTS, second.counts, strict=True)},
        }

    def save(self) -> PathState:
        """Return what waits."""
        rows = [
            (np.void(s.key), s.probe, s.met, s.flow_id, s.start_ns, s.end_ns, *s.counts)
            for mine in self._order.values()
            for s in mine
        ]
        return PathState(list(self._probes), np.array(rows, SAVED))

    def load(self, state: PathState) -> None:
        """Take over what waited at a former worker; this one must be empty.

        Raises:
            ValueError: rows of probes that are not named.
        """
        self._probes = list(state.probes)
        for key, probe, met, flow_id, start_ns, end_ns, *counts in state.rows.tolist():
            if probe >= len(self._probes):
                raise ValueError(f"a row of probe {probe} of {len(self._probes)}")
            seen = Seen(bytes(key), probe, flow_id, start_ns, end_ns, tuple(counts), met)
            self._order.setdefault(probe, deque()).append(seen)
            self._waiting.setdefault(seen.key, []).append(seen)
            self._count += 1


def _seen(columns: dict[str, Array], rows: NDArray[np.intp], probe: int) -> Iterator[Seen]:
    keys = np.zeros(len(rows), _KEY)
    for name in _KEY.names or ():
        keys[name] = columns[name][rows]
    raw, size = keys.tobytes(), _KEY.itemsize
    lists: Sequence[list[int]] = [
        columns[name][rows].tolist() for name in ("flow_id", "start_ns", "end_ns", *_COUNTS)
    ]
    for number, (flow_id, start_ns, end_ns, *counts) in enumerate(zip(*lists, strict=True)):
        key = raw[number * size : (number + 1) * size]
        yield Seen(key, probe, flow_id, start_ns, end_ns, tuple(counts))
