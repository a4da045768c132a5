"""Rows made of several packet batches, put together into fewer messages.

A message costs its reader far more than a row does. So rows of one probe, partition and representation share one
where several packet batches were at hand: the further a worker is behind, the fewer messages it makes of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from schemas.columns import Array
from schemas.features import FeatureBatch

Columns = dict[str, Array]
_LINE_FEED = np.uint8(10)
"""Stands between two texts."""
_Place = tuple[str, int, str, int]
"""Representation, partition, probe, epoch."""


class Gathered:
    """Feature batches that wait for the last message at hand."""

    def __init__(self, max_rows: int) -> None:
        """Put at most ``max_rows`` rows, as many as a batch may have, into one."""
        self._max_rows = max_rows
        self._waiting: dict[_Place, list[FeatureBatch]] = {}

    def add(self, batch: FeatureBatch) -> None:
        """Take a batch in."""
        place = (batch.representation, batch.partition, batch.probe, batch.source_epoch)
        self._waiting.setdefault(place, []).append(batch)

    def take(self) -> Iterator[FeatureBatch]:
        """Yield all rows and forget them: those of a place in their order, in as few batches as they fit."""
        waiting, self._waiting = self._waiting, {}
        for batches in waiting.values():
            part: list[FeatureBatch] = []
            rows = 0
            for batch in batches:
                if part and rows + batch.rows > self._max_rows:
                    yield _joined(part)
                    part, rows = [], 0
                part.append(batch)
                rows += batch.rows
            yield _joined(part)


def _joined(batches: list[FeatureBatch]) -> FeatureBatch:
    """Return the rows of several batches as one.

    Its times are those of the first, so that no row looks younger than it is; its sequence is that of the last.
    """
    first, last = batches[0], batches[-1]
    if first is last:
        return first
    parts = [batch.columns for batch in batches]
    if "texts" in first.columns:
        parts = _renumbered(parts)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in first.columns}
    return replace(first, columns=columns, source_sequence=last.source_sequence, replayed=last.replayed)


def _renumbered(parts: list[Columns]) -> list[Columns]:
    """Return the columns with services and servers numbered among the texts of all parts, one behind the other."""
    out: list[Columns] = []
    before = 0
    for part in parts:
        texts = part["texts"]
        places = {name: part[name] + part[name].dtype.type(before) for name in ("service", "server_name")}
        out.append({**part, **places, "texts": np.append(_LINE_FEED, texts) if out else texts})
        before += 1 + int(np.count_nonzero(texts == _LINE_FEED))
    return out
