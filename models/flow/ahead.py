"""Rows that came, on a topic of their own, before their flow waits for them: topics are read in no order."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from models.flow.table import Rows
from models.flow.work import Indexes, Matrix, Sources, Work

MOST = 65_536
"""Most rows kept; beyond, those of the flow that was heard of first go."""


class _Kept(NamedTuple):
    rows: Rows
    partition: int
    source: int
    features: Matrix
    until_ns: int


class RowsAhead:
    """Such rows by flow, for a time."""

    def __init__(self, sources: Sources) -> None:
        self.rows = 0
        self.forgotten = 0
        """Rows whose flow never waited for them."""
        self._sources = sources
        self._kept: dict[int, list[_Kept]] = {}

    def keep(self, work: Work, partition: int, where: Indexes, until_ns: int) -> None:
        """Keep rows of a partition until a time of the clock that ``forget`` is told."""
        for i in where.tolist():
            if self.rows >= MOST:
                self._drop(next(iter(self._kept)))
            source = int(work.source[i])
            features = work.features[source][work.at[i]].copy()
            kept = _Kept(work.rows[i : i + 1].copy(), partition, source, features, until_ns)
            self._kept.setdefault(int(work.rows["flow_id"][i]), []).append(kept)
            self.rows += 1

    def take(self, flows: list[int], representation: str, depth: int) -> Work | None:
        """Return the rows of flows at a depth, which are kept no longer; None where there are none."""
        ready: list[_Kept] = []
        for flow in flows:
            kept = self._kept.get(flow, [])
            fits = [k for k in kept if self._fits(k, representation, depth)]
            if fits:
                ready += fits[:1]
                self.rows -= len(fits)
                self._kept[flow] = [k for k in kept if not self._fits(k, representation, depth)]
                if not self._kept[flow]:
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
        rows = np.concatenate([kept.rows for kept in ready])
        parts, begin = [], 0
        for partition, count in Counter(kept.partition for kept in ready).items():
            parts.append((partition, begin, begin + count))
            begin += count
        return Work(rows, parts, source, at, features, np.empty(len(rows), np.int64))

    def _fits(self, kept: _Kept, representation: str, depth: int) -> bool:
        of = self._sources.known[kept.source].representation
        return of == representation and int(kept.rows["depth"][0]) == depth

    def _drop(self, flow: int) -> None:
        dropped = len(self._kept.pop(flow))
        self.rows -= dropped
        self.forgotten += dropped

    def forget(self, now_ns: int) -> None:
        """Forget rows whose time is over."""
        for flow, kept in list(self._kept.items()):
            if kept[-1].until_ns >= now_ns:
                break
            self._drop(flow)
