"""Flow data out of a table of packet sequences: CSV, one line a flow, its first packets in one column.

Columns: ``flow``; ``service`` or ``label``; ``start_time``, in s; and ``seq_dt_size_dir``, packets as
``time:octets:direction`` with semicolons between, time in s since the first, direction 0 or 1.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flow.study.data import NEVER_US, FlowData, Rows, choose_classes
from schemas.errors import InputError

SEQUENCE = "seq_dt_size_dir"
REPRESENTATION = "early"
FEATURES = ("packet_sequence",)
_MOST_FLOWS = 5_000_000
_LABELS = ("service", "label")


class _Flow(NamedTuple):
    label: str
    group: str
    packets: NDArray[np.float64]
    """(packets, 3): time in us since the first, octets, direction relative to the first packet's."""


def from_table(path: Path, depths: Sequence[int], least_flows: int, least_groups: int) -> FlowData:
    """Return the flows of a table; groups are the days of a class.

    Raises:
        InputError: it cannot be read, a line is wrong (told by its number), or fewer than two classes are left.
    """
    flows = list(_read(path, max(depths)))
    classes, notes = choose_classes(
        [flow.label for flow in flows], [flow.group for flow in flows], least_flows, least_groups
    )
    at = {name: i for i, name in enumerate(classes)}
    flows = [flow for flow in flows if flow.label in at]
    group_at = {group: i for i, group in enumerate(dict.fromkeys(flow.group for flow in flows))}
    reached, rows = {}, {}
    for depth in depths:
        mine = np.array([i for i, flow in enumerate(flows) if len(flow.packets) >= depth], np.int64)
        times = np.full(len(flows), NEVER_US)
        times[mine] = [flows[i].packets[depth - 1, 0] for i in mine]
        reached[depth] = times
        values = np.array([_row(flows[i].packets[:depth]) for i in mine], np.float32)
        rows[REPRESENTATION, depth] = Rows(_columns(depth), mine, values.reshape(len(mine), -1))
    return FlowData(
        name=path.name.split(".")[0],
        classes=classes,
        label=np.array([at[flow.label] for flow in flows], np.int32),
        group=np.array([group_at[flow.group] for flow in flows]),
        group_word="day of a class",
        reached_us=reached,
        rows=rows,
        features={REPRESENTATION: FEATURES},
        notes=tuple(notes),
        about={"table": path.name, "flows_labelled": len(flows)},
    )


def _columns(depth: int) -> tuple[str, ...]:
    """Return the columns of the feature ``packet_sequence`` (``streams.features.packet_sequence``)."""
    numbers = range(1, depth + 1)
    return (
        *(f"octets_{i}" for i in numbers),
        *(f"direction_{i}" for i in numbers),
        *(f"gap_us_{i}" for i in numbers[1:]),
    )


def _row(packets: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = np.maximum(np.diff(packets[:, 0]), 0)
    return np.concatenate([np.minimum(packets[:, 1], 65535), packets[:, 2], gaps])


def _read(path: Path, most_packets: int) -> Iterator[_Flow]:
    try:
        with _open(path) as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            label = next((name for name in _LABELS if name in names), None)
            for wanted in (label, SEQUENCE, "start_time"):
                if wanted is None or wanted not in names:
                    raise InputError(f"{path}: line 1: no column {wanted or ' or '.join(_LABELS)}")
            for line, row in enumerate(reader, 2):
                if line > _MOST_FLOWS:
                    raise InputError(f"{path}: more than {_MOST_FLOWS:,} flows")
                try:
                    yield _flow(row, str(label), most_packets)
                except (ValueError, OverflowError, OSError) as error:
                    raise InputError(f"{path}: line {line}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _flow(row: dict[str, str | None], label: str, most_packets: int) -> _Flow:
    name, text = (row[label] or "").strip(), row[SEQUENCE] or ""
    if not name:
        raise ValueError(f"no {label}")
    day = datetime.fromtimestamp(float(row["start_time"] or ""), UTC).date().isoformat()
    packets = []
    for number, part in enumerate(text.split(";")[:most_packets], 1):
        fields = part.split(":")
        if len(fields) != 3 or fields[2] not in ("0", "1"):
            raise ValueError(f"packet {number} is {part[:40]!r}, not time:octets:direction")
        time_s, octets = float(fields[0]), float(fields[1])
        if not (math.isfinite(time_s) and 0 <= octets < 1e6 and time_s >= 0):
            raise ValueError(f"packet {number}: {part[:40]!r} is not a time and a length")
        packets.append((time_s * 1e6, octets, 1.0 if fields[2] == "1" else -1.0))
    found = np.array(packets)
    found[:, 2] *= found[0, 2]  # 1: from the sender of the first packet
    found[:, 0] -= found[0, 0]
    return _Flow(name, f"{name} {day}", found)
