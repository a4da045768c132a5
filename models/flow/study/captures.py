"""Labelled captures to flow data, by the flows agent's own engine, one early representation for each depth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba.core.errors import NumbaExperimentalFeatureWarning
from numpy.typing import NDArray

from models.flow.octets import REPRESENTATION as OCTETS
from models.flow.study.data import NEVER_US, FlowData, Rows, choose_classes
from models.flow.study.packet import payload_rows
from models.packet.build import PROBE
from producers.sources.capture import open_capture
from schemas.errors import InputError
from schemas.features import FeatureBatch
from streams.config import RepresentationSettings, StreamsSettings
from streams.flow_rules import flow_rules
from streams.offline import Offline

REPRESENTATIONS: dict[str, tuple[str, ...]] = {
    "early": ("protocol", "packet_sequence", "flag_sequence", "ttl", "tcp_window"),
    "statistics": ("protocol", "ttl", "tcp_window", "size_statistics", "gap_statistics"),
    "header_bits": ("header_bits",),
}
"""What tiers may be trained on: names of representations and the features in them."""
_CLOCK = "clock"
_BITS = "header_bits"

OnCapture = Callable[[int], None]


@dataclass(frozen=True)
class LabelledCapture:
    """A capture, and what its flows are."""

    path: str
    group: str
    labels: Mapping[int, str] | str
    """By flow id, or one for all flows."""


def _settings(
    settings: StreamsSettings, wanted: Sequence[tuple[str, int]]
) -> tuple[RepresentationSettings, ...]:
    made = [
        RepresentationSettings(
            name=f"{name}_{depth}", kind="early", features=REPRESENTATIONS[name], depth=depth
        )
        for name, depth in wanted
        if name != OCTETS
    ]
    # When each packet came: from rows that hold nothing else.
    made += [
        RepresentationSettings(name=f"{_CLOCK}_{depth}", kind="early", features=("protocol",), depth=depth)
        for depth in _depths(wanted)
    ]
    return tuple(made)


def _depths(wanted: Sequence[tuple[str, int]]) -> list[int]:
    return sorted({depth for _, depth in wanted})


class _Collected:
    """Rows as they come, by representation and depth."""

    def __init__(self, wanted: Sequence[tuple[str, int]]) -> None:
        clocks = [(_CLOCK, depth) for depth in _depths(wanted)]
        self.wanted = {f"{name}_{depth}": (name, depth) for name, depth in (*wanted, *clocks)}
        self.parts: dict[tuple[str, int], list[tuple[NDArray[Any], NDArray[Any]]]] = {
            key: [] for key in self.wanted.values()
        }
        self.columns: dict[tuple[str, int], tuple[str, ...]] = {}

    def take(self, batch: FeatureBatch, number_of: Callable[[NDArray[Any]], NDArray[np.int64]]) -> None:
        """Take the rows of a batch that are at the depth of their representation and of labelled flows."""
        key = self.wanted[batch.representation]
        name, depth = key
        columns = batch.columns
        numbers = number_of(columns["flow_id"])
        here = (columns["packets_fwd"].astype(np.int64) + columns["packets_rev"] == depth) & (numbers >= 0)
        if not here.any():
            return
        if name == _CLOCK:
            values = ((columns["end_ns"] - columns["start_ns"])[here] / 1e3)[:, np.newaxis]
        else:
            values = columns["features"][here]
            if name == _BITS:
                values = values.astype(np.int8)
        self.columns[key] = batch.feature_names
        self.parts[key].append((numbers[here], values))

    def take_octets(
        self, batch: FeatureBatch, number_of: Callable[[NDArray[Any]], NDArray[np.int64]]
    ) -> None:
        """Take the payloads, a packet a row, of flows that have numbers."""
        numbers, depth = number_of(batch.columns["flow_id"]), batch.columns["depth"]
        for key in self.parts:
            here = (depth == key[1]) & (numbers >= 0)
            if key[0] == OCTETS and here.any():
                self.columns[key] = batch.feature_names
                self.parts[key].append((numbers[here], batch.columns["features"][here]))

    def joined(self, key: tuple[str, int]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return flow numbers, rising, and values; one row a flow."""
        parts = self.parts[key]
        if not parts:
            return np.zeros(0, np.int64), np.zeros((0, len(self.columns.get(key, ("-",)))), np.float32)
        flows = np.concatenate([flows for flows, _ in parts])
        values = np.concatenate([values for _, values in parts])
        found, first = np.unique(flows, return_index=True)
        return found, values[first]


def from_captures(
    name: str,
    captures: Sequence[LabelledCapture],
    settings: StreamsSettings,
    wanted: Sequence[tuple[str, int]],
    least_flows: int,
    least_groups: int,
    on_capture: OnCapture,
    stop: Callable[[], bool],
) -> FlowData | None:
    """Return the labelled flows of captures; None if ``stop`` ended it before.

    Args:
        name: of the data.
        captures: with their labels.
        settings: when flows end.
        wanted: names out of ``REPRESENTATIONS``, or ``payloads``, each with a depth in packets.
        least_flows: a class with fewer is left out.
        least_groups: so is one of fewer groups.
        on_capture: told how many captures are through.
        stop: asked before each.

    Raises:
        InputError: fewer than two classes, no labelled flow, or a capture that cannot be read.
    """
    own = settings.model_copy(update={"representations": _settings(settings, wanted), "services": ()})
    collected = _Collected(wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbaExperimentalFeatureWarning)
        offline = Offline(own, 1, PROBE)
    labels: list[str] = []
    groups: list[str] = []
    octets = [depth for name, depth in wanted if name == OCTETS]
    for done, capture in enumerate(captures):
        on_capture(done)
        if stop():
            return None
        seen: dict[int, int] = {}

        def number_of(
            ids: NDArray[Any], seen: dict[int, int] = seen, capture: LabelledCapture = capture
        ) -> NDArray[np.int64]:
            out = np.full(len(ids), -1, np.int64)
            for i, flow_id in enumerate(ids.tolist()):
                label = capture.labels if isinstance(capture.labels, str) else capture.labels.get(flow_id)
                if label is not None:
                    if flow_id not in seen:
                        seen[flow_id] = len(labels)
                        labels.append(label)
                        groups.append(capture.group)
                    out[i] = seen[flow_id]
            return out

        for batch in _batches(offline, capture.path):
            collected.take(batch, number_of)
        if octets:
            for batch in payload_rows(capture.path, octets, flow_rules(settings)):
                collected.take_octets(batch, lambda ids, seen=seen: _known(seen, ids))  # type: ignore[misc]
    if not labels:
        raise InputError(f"{name}: no label fits a flow of the captures, so there is nothing to learn from")
    return _flow_data(name, collected, labels, groups, wanted, least_flows, least_groups)


def _known(seen: Mapping[int, int], ids: NDArray[Any]) -> NDArray[np.int64]:
    return np.array([seen.get(flow_id, -1) for flow_id in ids.tolist()], np.int64)


def _batches(offline: Offline, path: str) -> Iterator[FeatureBatch]:
    """Yield the rows of a capture, all its flows ended: the next one begins anew."""
    with open_capture(path) as capture:
        yield from offline.feed(capture)
    yield from offline.end()


def _flow_data(
    name: str,
    collected: _Collected,
    labels: list[str],
    groups: list[str],
    wanted: Sequence[tuple[str, int]],
    least_flows: int,
    least_groups: int,
) -> FlowData:
    classes, notes = choose_classes(labels, groups, least_flows, least_groups)
    at = {name: i for i, name in enumerate(classes)}
    numbers = np.array([at.get(label, -1) for label in labels])
    kept = numbers >= 0
    # Numbers of the flows that stay.
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    group_at = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    rows = {}
    for key in wanted:
        flows, values = collected.joined(key)
        some = kept[flows]
        rows[key] = Rows(collected.columns.get(key, ()), place[flows[some]], values[some])
    reached = {}
    for depth in _depths(wanted):
        flows, values = collected.joined((_CLOCK, depth))
        times = np.full(len(labels), NEVER_US)
        times[flows] = values[:, 0]
        reached[depth] = times[kept]
    return FlowData(
        name=name,
        classes=classes,
        label=numbers[kept].astype(np.int32),
        group=np.array([group_at[group] for group in groups])[kept],
        group_word="capture",
        reached_us=reached,
        rows=rows,
        features={name: REPRESENTATIONS[name] for name, _ in wanted if name != OCTETS},
        notes=tuple(notes),
        about={"captures": len({Path(group).name for group in groups}), "flows_labelled": len(labels)},
    )
