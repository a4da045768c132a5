"""Rows of captures at one moment, with all candidate features, and what is known of each row beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.explore.task import Moment
from schemas.features import FeatureBatch
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.offline import run_offline

PROBE = "explore"
BASE = ("packets_fwd", "packets_rev", "octets_fwd", "octets_rev")
"""Counts that every row has, whatever is chosen; addresses and ports are never trained on."""


@dataclass(frozen=True)
class Rows:
    """Rows of all captures at one moment."""

    values: NDArray[np.float32]
    """(rows, columns)"""
    owner: NDArray[np.int64]
    """(columns,) number of the candidate that a column is of; -1: BASE."""
    flow_id: NDArray[np.uint64]
    source: NDArray[np.uint8]
    """(rows, 16) addresses of flows' first senders"""
    destination: NDArray[np.uint8]
    ports: NDArray[np.int64]
    """(rows, 3): source port, destination port, protocol"""
    begin_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    """Of the time that a row tells of."""
    capture: NDArray[np.int64]
    packets: int
    """In all captures."""
    made: int
    """Rows made, also of flows that are left out here."""

    def choose(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Rows:
        """Return some of the rows."""
        by_row = {name: getattr(self, name)[chosen] for name in _BY_ROW}
        return Rows(owner=self.owner, packets=self.packets, made=self.made, **by_row)

    def columns_of(self, candidates: Sequence[int]) -> NDArray[np.float32]:
        """Return the columns of some candidates, and BASE."""
        return self.values[:, np.isin(self.owner, [-1, *candidates])]


_BY_ROW = ("values", "flow_id", "source", "destination", "ports", "begin_ns", "end_ns", "capture")


def make_rows(
    captures: Sequence[str],
    features: tuple[str, ...],
    moment: Moment,
    settings: StreamsSettings,
    least_flow_octets: int,
) -> Rows:
    """Run all candidates over the captures; one row a flow stays where a flow is judged once.

    Raises:
        InputError: a capture cannot be read; SettingsError: an unknown feature.
    """
    representation = moment.representation(features)
    own = settings.model_copy(update={"representations": (representation,), "services": ()})
    (resolved,) = resolve([representation], settings.feature_files)
    widths = [len(slot.feature.columns(moment.depth)) for slot in resolved.slots]
    owner = np.concatenate([np.full(len(BASE), -1), np.repeat(np.arange(len(features)), widths)])
    parts: list[Rows] = []
    for number, path in enumerate(captures):
        batches: list[FeatureBatch] = []
        done = run_offline([path], own, partitions=1, probe=PROBE, on_batch=batches.append)
        if batches:
            part = _rows(batches, owner, moment, number, done.accepted)
            parts.append(_judged(part, moment, least_flow_octets))
    if not parts:
        return _rows([], owner, moment, 0, 0)
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_ROW}
    packets, made = sum(p.packets for p in parts), sum(p.made for p in parts)
    return Rows(owner=owner, packets=packets, made=made, **joined)


def _rows(
    batches: list[FeatureBatch], owner: NDArray[np.int64], moment: Moment, capture: int, packets: int
) -> Rows:
    def column(name: str, *shape: int) -> NDArray[np.generic]:
        return (
            np.concatenate([np.zeros((0, *shape)), *(b.columns[name] for b in batches)])
            if not batches
            else np.concatenate([b.columns[name] for b in batches])
        )

    rows = sum(b.rows for b in batches)
    base = np.stack([column(name).astype(np.float32) for name in BASE], axis=1)
    width = len(owner) - len(BASE)
    begin = column("interval_start_ns").astype(np.int64)
    end = (
        begin + round(moment.every_s * 1e9) if moment.kind == "window" else column("end_ns").astype(np.int64)
    )
    return Rows(
        values=np.concatenate([base, column("features", width).astype(np.float32)], axis=1),
        owner=owner,
        flow_id=column("flow_id").astype(np.uint64),
        source=column("source_address", 16).astype(np.uint8),
        destination=column("destination_address", 16).astype(np.uint8),
        ports=np.stack(
            [column(n).astype(np.int64) for n in ("source_port", "destination_port", "protocol")], axis=1
        ),
        begin_ns=begin,
        end_ns=end,
        capture=np.full(rows, capture),
        packets=packets,
        made=rows,
    )


def _judged(rows: Rows, moment: Moment, least_flow_octets: int) -> Rows:
    """Return the rows of flows that are large enough; the last early row of each flow."""
    if moment.kind == "early":
        order = np.lexsort((rows.values[:, 0] + rows.values[:, 1], rows.flow_id))
        rows = rows.choose(order)
        return rows.choose(np.append(rows.flow_id[1:] != rows.flow_id[:-1], True)[: len(rows.flow_id)])
    if not least_flow_octets:
        return rows
    octets = rows.values[:, 2].astype(np.float64) + rows.values[:, 3]
    flows, at = np.unique(rows.flow_id, return_inverse=True)
    return rows.choose(np.bincount(at, octets, minlength=len(flows))[at] >= least_flow_octets)
