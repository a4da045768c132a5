"""Rows of several messages put together, so that each tier's model runs once for all that it is to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.records import Names, held_rows
from models.flow.waiting import HELD, Places, Rows
from schemas.features import FeatureBatch

Indexes = NDArray[np.intp]
Matrix = NDArray[np.float32]


class Arrived(NamedTuple):
    """A message of features."""

    batch: FeatureBatch
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

    def number(self, batch: FeatureBatch) -> int:
        """Return the number of a batch's source."""
        source = Source(batch.representation, batch.feature_names)
        for number, known in enumerate(self.known):
            if known == source:
                return number
        self.known.append(source)
        return len(self.known) - 1

    def are_of(self, representation: str, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the numbered sources are of a representation."""
        fits = np.array([source.representation == representation for source in self.known], np.bool_)
        found: NDArray[np.bool_] = fits[numbers]
        return found


@dataclass
class Work:
    """Rows that tiers may have to do with; every array but ``features`` has as many."""

    rows: Rows
    partition: NDArray[np.int64]
    source: NDArray[np.int64]
    at: NDArray[np.int64]
    """Row of the source's matrix."""
    features: Mapping[int, Matrix]
    """By source."""
    places: Places = field(default_factory=lambda: np.empty(0, np.int64))
    """Of each row's flow in the table of its partition, -1 where it is not known."""
    fresh: Indexes = field(default_factory=lambda: np.empty(0, np.intp))
    """Rows with which their flows are met."""

    def matrix(self, where: Indexes, source: int) -> Matrix:
        """Return the features of rows of one source."""
        return self.features[source][self.at[where]]

    def by_partition(self, where: Indexes) -> Iterator[tuple[int, Indexes]]:
        """Yield (partition, those of the rows ``where`` that are of it)."""
        for partition, part in places_by_partition(self.partition[where]):
            yield partition, where[part]


def places_by_partition(partition: NDArray[np.int64]) -> Iterator[tuple[int, Indexes]]:
    """Yield each partition, and where it stands."""
    if not len(partition):
        return
    if (partition == partition[0]).all():
        yield int(partition[0]), np.arange(len(partition))
        return
    for number in np.unique(partition).tolist():
        yield number, np.flatnonzero(partition == number)


def groups(arrived: Sequence[Arrived], most: int) -> Iterator[list[Arrived]]:
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
    parts: list[tuple[Rows, int, int, Places]] = []
    matrices: dict[int, list[Matrix]] = {}
    sizes: Counter[int] = Counter()
    for batch, partition, received_ns in group:
        wanted = batch.columns["flow_end_reason"] != 0
        for depth in depths.get(batch.representation, ()):
            wanted |= batch.columns["depth"] == depth
        where = np.flatnonzero(wanted)
        if not len(where) or batch.representation not in depths:
            continue
        source = sources.number(batch)
        probe, representation = probes.number(batch.probe), representations.number(batch.representation)
        rows = held_rows(batch, where, probe, representation, received_ns)
        parts.append((rows, partition, source, where + sizes[source]))
        matrices.setdefault(source, []).append(batch.columns["features"])
        sizes[source] += batch.rows
    counts = [len(rows) for rows, _, _, _ in parts]
    return Work(
        np.concatenate([np.empty(0, HELD), *(rows for rows, _, _, _ in parts)]),
        np.repeat(np.array([partition for _, partition, _, _ in parts], np.int64), counts),
        np.repeat(np.array([source for _, _, source, _ in parts], np.int64), counts),
        np.concatenate([np.empty(0, np.int64), *(at for _, _, _, at in parts)]),
        {s: m[0] if len(m) == 1 else np.concatenate(m) for s, m in matrices.items()},
    )
