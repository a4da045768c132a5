"""Rows of several messages put together, so that each tier's model runs once for all that it is to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.records import Names, fill_rows
from models.flow.table import HELD, Places, Rows
from models.flow.tiers import Matrix
from schemas.features import FeatureBatch
from schemas.payloads import PayloadBatch

Indexes = NDArray[np.intp]


class Arrived(NamedTuple):
    """A message of features."""

    batch: FeatureBatch
    partition: int
    received_ns: int
    """Wall clock."""


class ArrivedPayloads(NamedTuple):
    """A message of payloads."""

    batch: PayloadBatch
    partition: int
    received_ns: int
    """Wall clock."""


class Source(NamedTuple):
    """Rows of one representation with the same columns."""

    representation: str
    names: tuple[str, ...]


class Sources:
    """Sources by number."""

    def __init__(self) -> None:
        self.known: list[Source] = []
        self._fits: dict[str, NDArray[np.bool_]] = {}

    def number(self, batch: FeatureBatch) -> int:
        """Return the number of a batch's source."""
        source = Source(batch.representation, batch.feature_names)
        for number, known in enumerate(self.known):
            if known == source:
                return number
        self.known.append(source)
        return len(self.known) - 1

    def are_of(self, representation: str) -> NDArray[np.bool_]:
        """Return which of the sources known are of a representation, in the order of their numbers."""
        fits = self._fits.get(representation)
        if fits is None or len(fits) != len(self.known):
            fits = np.array([source.representation == representation for source in self.known], np.bool_)
            self._fits[representation] = fits
        return fits


@dataclass
class Work:
    """Rows that tiers may have to do with, those of a partition together; every array but ``features`` has as many."""

    rows: Rows
    parts: Sequence[tuple[int, int, int]]
    """Of each partition its number, where its rows begin and before where they end."""
    source: NDArray[np.int64]
    at: NDArray[np.int64]
    """Row of the source's matrix."""
    features: Mapping[int, Matrix]
    """By source."""
    places: Places
    """Of each row's flow in the table of its partition, -1 where it is not known."""
    fresh: dict[int, Indexes] = field(default_factory=dict)
    """By partition, rows with which their flows are met."""

    def matrix(self, where: Indexes, source: int) -> Matrix:
        """Return the features of rows of one source."""
        return self.features[source][self.at[where]]


def groups(arrived: Iterable[Arrived], most: int) -> Iterator[list[Arrived]]:
    """Yield messages in groups of ``most`` rows, or of one message."""
    group: list[Arrived] = []
    rows = 0
    for one in arrived:
        if group and rows + one.batch.rows > most:
            yield group
            group, rows = [], 0
        group.append(one)
        rows += one.batch.rows
    if group:
        yield group


def gather(
    group: Sequence[Arrived],
    depths: Mapping[str, Sequence[int]],
    sources: Sources,
    probes: Names,
    representations: Names,
) -> Work:
    """Put the rows of several messages together, less those that no tier has a use for.

    Args:
        group: the messages.
        depths: those that tiers answer at, by representation.
        sources: numbers what columns there are.
        probes: numbers probes.
        representations: numbers representations.
    """
    found: list[tuple[FeatureBatch, int, int, Indexes | slice, int]] = []
    # The sort is stable: a partition's messages stay in their order.
    for batch, partition, received_ns in sorted(group, key=_partition_of):
        at = depths.get(batch.representation)
        if at is None or not batch.rows:
            continue
        wanted = _wanted(batch, at)
        if wanted is not None and not len(wanted):
            continue
        count = batch.rows if wanted is None else len(wanted)
        found.append((batch, partition, received_ns, slice(None) if wanted is None else wanted, count))
    size = sum(count for *_, count in found)
    rows, source, at_row = np.zeros(size, HELD), np.zeros(size, np.int64), np.empty(size, np.int64)
    matrices: dict[int, list[Matrix]] = {}
    sizes: Counter[int] = Counter()
    bounds: dict[int, tuple[int, int]] = {}
    begin = 0
    for batch, partition, received_ns, where, count in found:
        end = begin + count
        number = sources.number(batch)
        probe, representation = probes.number(batch.probe), representations.number(batch.representation)
        fill_rows(rows[begin:end], batch, where, probe, representation, received_ns)
        source[begin:end] = number
        at_row[begin:end] = sizes[number] + np.arange(batch.rows)[where]
        matrices.setdefault(number, []).append(batch.columns["features"])
        sizes[number] += batch.rows
        bounds[partition] = (bounds.get(partition, (begin, end))[0], end)
        begin = end
    return Work(
        rows,
        [(partition, *bound) for partition, bound in bounds.items()],
        source,
        at_row,
        {s: m[0] if len(m) == 1 else np.concatenate(m) for s, m in matrices.items()},
        np.empty(size, np.int64),
    )


def _partition_of(one: Arrived) -> int:
    return one.partition


def _wanted(batch: FeatureBatch, depths: Sequence[int]) -> Indexes | None:
    """Return the rows of a batch that a tier has a use for; None: all of them."""
    wanted = batch.columns["flow_end_reason"] != 0
    for depth in depths:
        wanted |= batch.columns["depth"] == depth
    return None if wanted.all() else np.flatnonzero(wanted)
