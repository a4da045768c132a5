"""Flows of labelled captures, taken apart so that they can be sent again and again under other addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.labels import read_labels
from producers.sources.capture import open_capture
from schemas.errors import InputError
from schemas.features import FeatureBatch
from streams.config import StreamsSettings
from streams.offline import run_offline

PROBE = "bench"
LABELS_SUFFIX = ".labels.csv"
_PORTS_PROTOCOLS = (6, 17, 132)
"""Protocols whose ports are just that, so that a flow with other addresses is as good as it was."""
PACKET_FIELDS: tuple[tuple[str, Any], ...] = (
    ("octets", np.uint32),
    ("header_octets", np.uint16),
    ("tcp_window", np.uint16),
    ("tcp_flags", np.uint8),
    ("ttl", np.uint8),
    ("direction", np.uint8),
)


@dataclass(frozen=True)
class Templates:
    """Labelled flows; packets lie one behind the other, flow by flow."""

    classes: tuple[str, ...]
    label: NDArray[np.int64]
    """(flows,) index into ``classes``."""
    flow_id: NDArray[np.uint64]
    """(flows,) as the probe ``PROBE`` gives it in the capture."""
    protocol: NDArray[np.uint8]
    ip_version: NDArray[np.uint8]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    first: NDArray[np.int64]
    """(flows + 1,) where each flow's packets begin."""
    offset_ns: NDArray[np.int64]
    """(packets,) time since the flow's first packet."""
    packets: dict[str, NDArray[Any]]
    """(packets,) by the names of PACKET_FIELDS; ``direction`` is 0 from the flow's source, the first sender."""

    @property
    def flows(self) -> int:
        """Return how many flows there are."""
        return len(self.label)

    def take(self, chosen: NDArray[np.int64]) -> Templates:
        """Return some of the flows."""
        spans = [np.arange(self.first[i], self.first[i + 1]) for i in chosen.tolist()]
        where = np.concatenate(spans) if spans else np.empty(0, np.int64)
        return Templates(
            self.classes,
            self.label[chosen],
            self.flow_id[chosen],
            self.protocol[chosen],
            self.ip_version[chosen],
            self.source_port[chosen],
            self.destination_port[chosen],
            np.concatenate(([0], np.cumsum([len(span) for span in spans]))).astype(np.int64),
            self.offset_ns[where],
            {name: column[where] for name, column in self.packets.items()},
        )


def labels_beside(capture: str) -> Path:
    """Return the labels file of a capture; raises InputError where there is none."""
    path = Path(capture)
    found = path.with_name(path.name.split(".")[0] + LABELS_SUFFIX)
    if not found.is_file():
        raise InputError(f"{capture}: no labels beside it: {found} is missing; --labels names a file")
    return found


def read_templates(captures: Sequence[str], labels: Sequence[str], max_gap_s: float) -> Templates:
    """Return the labelled TCP, UDP and SCTP flows of captures.

    Args:
        captures: files.
        labels: a labels file for each.
        max_gap_s: a flow is cut off at a silence of so many seconds: it would end there.

    Raises:
        InputError: a file cannot be read, or no flow of the captures is labelled.
    """
    parts = [
        part
        for capture, file in zip(captures, labels, strict=True)
        for part in _flows(capture, file, round(max_gap_s * 1e9))
    ]
    if not parts:
        raise InputError(f"{', '.join(captures)}: no flow of TCP or UDP is labelled in {', '.join(labels)}")
    names = tuple(sorted({label for label, _, _ in parts}))
    heads = [head for _, head, _ in parts]
    packets = [columns for _, _, columns in parts]
    first = np.concatenate(([0], np.cumsum([len(p["offset_ns"]) for p in packets]))).astype(np.int64)
    return Templates(
        names,
        np.array([names.index(label) for label, _, _ in parts], np.int64),
        np.array([head[0] for head in heads], np.uint64),
        np.array([head[1] for head in heads], np.uint8),
        np.array([head[2] for head in heads], np.uint8),
        np.array([head[3] for head in heads], np.uint16),
        np.array([head[4] for head in heads], np.uint16),
        first,
        np.concatenate([p["offset_ns"] for p in packets]),
        {name: np.concatenate([p[name] for p in packets]) for name, _ in PACKET_FIELDS},
    )


_Head = tuple[int, int, int, int, int]
"""Flow id, protocol, IP version, source and destination port."""


def _flows(
    capture: str, labels: str, max_gap_ns: int
) -> Iterator[tuple[str, _Head, dict[str, NDArray[Any]]]]:
    """Yield (label, head, packet columns) of each labelled flow."""
    table = read_labels(labels)
    ids = table.flow_ids(PROBE)
    columns = _all_packets(capture)
    order = np.lexsort((columns["time_ns"], columns["flow_hash"]))
    hashes, times = columns["flow_hash"][order], columns["time_ns"][order]
    for row in range(table.rows):
        low, high = (
            np.searchsorted(hashes, table.flow_hash[row], "left"),
            np.searchsorted(hashes, table.flow_hash[row], "right"),
        )
        begin, end = low + np.searchsorted(times[low:high], (table.start_ns[row], table.end_ns[row] + 1))
        mine = order[begin:end]
        if not len(mine) or times[begin] != table.start_ns[row]:
            continue
        gaps = np.flatnonzero(np.diff(times[begin:end]) > max_gap_ns)
        if len(gaps):
            mine = mine[: gaps[0] + 1]
        at = mine[0]
        protocol = int(columns["protocol"][at])
        if protocol not in _PORTS_PROTOCOLS:
            continue
        turned = int(columns["direction"][at])
        ports = (int(columns["port_a"][at]), int(columns["port_b"][at]))
        head = (int(ids[row]), protocol, int(columns["ip_version"][at]), ports[turned], ports[1 - turned])
        packets = {name: columns[name][mine] for name, _ in PACKET_FIELDS}
        packets["direction"] = packets["direction"] ^ np.uint8(turned)
        packets["offset_ns"] = columns["time_ns"][mine] - table.start_ns[row]
        yield table.label[row], head, packets


def _all_packets(capture: str) -> dict[str, NDArray[Any]]:
    names = [
        name
        for name in PacketColumns._fields
        if not name.startswith(("address", "tcp_seq", "tcp_ack", "head"))
    ]
    names.append("header_octets")
    parts: list[dict[str, NDArray[Any]]] = []
    with open_capture(capture) as opened:
        for block in opened.blocks():
            parts.append({name: getattr(block, name).copy() for name in names})
    if not parts:
        raise InputError(f"{capture}: no IP packet")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


@dataclass(frozen=True)
class RowsAt:
    """Features of templates at one depth."""

    columns: tuple[str, ...]
    values: NDArray[np.float32]
    """(flows, columns); zeros for flows that never got there."""
    reached: NDArray[np.bool_]


def rows_at(
    templates: Templates,
    captures: Sequence[str],
    settings: StreamsSettings,
    representation: str,
    wait_s: float,
) -> dict[int, RowsAt]:
    """Return the features of each template by depth, as the flows agent computes them, within a time.

    Args:
        templates: of the captures.
        captures: files.
        settings: with the representation.
        representation: its name.
        wait_s: what comes later after the flow's first packet has not been reached.
    """
    found: dict[int, dict[int, NDArray[np.float32]]] = {}
    names: tuple[str, ...] = ()

    def take(batch: FeatureBatch) -> None:
        nonlocal names
        if batch.representation != representation:
            return
        names, columns = batch.feature_names, batch.columns
        in_time = (columns["end_ns"] - columns["start_ns"] <= wait_s * 1e9) & (
            columns["flow_end_reason"] == 0
        )
        for i in np.flatnonzero(in_time).tolist():
            rows = found.setdefault(int(columns["depth"][i]), {})
            rows[int(columns["flow_id"][i])] = columns["features"][i]

    run_offline(list(captures), settings, partitions=1, probe=PROBE, on_batch=take)
    out = {}
    longest = np.diff(templates.first)
    for depth, rows in found.items():
        values = np.zeros((templates.flows, len(names)), np.float32)
        reached = np.zeros(templates.flows, np.bool_)
        for i, flow in enumerate(templates.flow_id.tolist()):
            # A flow that was cut short does not get there when it is sent.
            if flow in rows and longest[i] >= depth:
                values[i], reached[i] = rows[flow], True
        out[depth] = RowsAt(names, values, reached)
    return out
