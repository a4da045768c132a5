"""Rows that came, on a topic of their own, before their flow waits for them: topics are read in no order."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from models.flow.table import HELD
from models.flow.tiers import Matrix
from models.flow.work import Indexes, Sources, Work

MOST = 65_536
"""Most rows kept."""


_SIZE = HELD.itemsize
_AS_BYTES = np.dtype((np.void, _SIZE))
"""Rows field by field would take ten times as long to copy."""


class _Kept(NamedTuple):
    row: bytes
    """HELD."""
    partition: int
    source: int
    features: Matrix
    until_ns: int

    @property
    def nbytes(self) -> int:
        return self.features.nbytes + _SIZE


class RowsAhead:
    """Such rows by flow, for a time and within bounds: beyond, those of the flow that was heard of first go."""

    def __init__(self, sources: Sources, most_bytes: int) -> None:
        """Keep rows of ``most_bytes`` together; ``sources`` knows what theirs are."""
        self.rows = 0
        self.nbytes = 0
        self.forgotten = 0
        """Rows whose flow never waited for them."""
        self.dropped = 0
        """Rows that had to make room."""
        self._sources, self._most_bytes = sources, most_bytes
        self._kept: dict[int, dict[tuple[str, int], _Kept]] = {}

    def keep(self, work: Work, partition: int, where: Indexes, until_ns: int) -> None:
        """Keep rows of a partition, of several alike the first, until a time of the clock that ``forget`` is told."""
        rows = work.rows[where]
        raw = rows.view(_AS_BYTES).tobytes()
        columns = (rows["flow_id"], rows["depth"], work.source[where], work.at[where])
        for i, (flow, depth, source, at) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            key = self._sources.known[source].representation, depth
            of_flow = self._kept.setdefault(flow, {})
            if key in of_flow:
                continue
            row, features = raw[i * _SIZE : (i + 1) * _SIZE], work.features[source][at].copy()
            kept = of_flow[key] = _Kept(row, partition, source, features, until_ns)
            self.rows += 1
            self.nbytes += kept.nbytes
            while self.rows > MOST or self.nbytes > self._most_bytes:
                self.dropped += self._drop(next(iter(self._kept)))

    def take(self, flows: list[int], representation: str, depth: int) -> Work | None:
        """Return the rows of flows at a depth, which are kept no longer; None where there are none."""
        ready: list[_Kept] = []
        for flow in flows:
            of_flow = self._kept.get(flow, {})
            kept = of_flow.pop((representation, depth), None)
            if kept is None:
                continue
            ready.append(kept)
            self.rows -= 1
            self.nbytes -= kept.nbytes
            if not of_flow:
                del self._kept[flow]
        if not ready:
            return None
        ready.sort(key=lambda kept: kept.partition)
        source = np.array([kept.source for kept in ready], np.int64)
        at = np.zeros(len(ready), np.int64)
        features = {}
        for number in np.unique(source).tolist():
            mine = np.flatnonzero(source == number)
            at[mine] = np.arange(len(mine))
            features[number] = np.stack([ready[i].features for i in mine])
        rows = np.frombuffer(bytearray(b"".join(kept.row for kept in ready)), HELD)
        parts, begin = [], 0
        for partition, count in Counter(kept.partition for kept in ready).items():
            parts.append((partition, begin, begin + count))
            begin += count
        return Work(rows, parts, source, at, features, np.empty(len(rows), np.int64))

    def _drop(self, flow: int) -> int:
        """Keep the rows of a flow no longer; return how many they were."""
        gone = self._kept.pop(flow, {}).values()
        self.rows -= len(gone)
        self.nbytes -= sum(kept.nbytes for kept in gone)
        return len(gone)

    def answered(self, flows: list[int]) -> None:
        """Keep no rows of flows that have their final answer."""
        for flow in flows:
            self._drop(flow)

    def forget(self, now_ns: int) -> None:
        """Forget rows whose time is over."""
        for flow, of_flow in list(self._kept.items()):
            if next(reversed(of_flow.values())).until_ns >= now_ns:
                break
            self.forgotten += self._drop(flow)
