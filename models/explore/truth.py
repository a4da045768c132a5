"""What rows are labelled with: by flow, by second of a flow, or by capture."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.explore.rows import PROBE, Rows
from producers.labels import COLUMNS, read_labels
from schemas.community_id import address_bytes
from schemas.errors import InputError

Texts = NDArray[Any]
"""(rows,) labels; empty where there is none."""
Truth = Callable[[Rows], Texts]
_ENDS = COLUMNS[:7]


def read_truth(files: Sequence[str], captures: Sequence[str], column: str) -> Truth:
    """Return what labels rows.

    A file is a labels file (COLUMNS of ``producers.labels``), one with those columns and another one instead of
    ``label`` that holds for a span of a flow's time, or a table of captures with ``capture``.

    Raises:
        InputError: a file cannot be read or lacks columns.
    """
    parts = [_truth(path, captures, column) for path in files]

    def truth(rows: Rows) -> Texts:
        found = np.full(len(rows.flow_id), "", object)
        for part in parts:
            told = part(rows)
            found = np.where(found == "", told, found)
        return found

    return truth


def _truth(path: str, captures: Sequence[str], column: str) -> Truth:
    head = next(_lines(path), [])
    if column not in head:
        raise InputError(f"{path}: line 1: no column {column}; there are {', '.join(head)}")
    if "capture" in head:
        return _by_capture(path, captures, column)
    if column == "label":
        return _by_flow(path)
    for name in _ENDS:
        if name not in head:
            raise InputError(f"{path}: line 1: no column {name}")
    return _by_time(path, column)


def _lines(path: str) -> Iterator[list[str]]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield from csv.reader(file, strict=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file: {error}") from None


def _records(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _lines(path)
    head = next(lines)
    for number, line in enumerate(lines, 2):
        yield number, dict(zip(head, line, strict=False))


def _by_flow(path: str) -> Truth:
    table = read_labels(path)
    known = dict(zip(table.flow_ids(PROBE).tolist(), table.label, strict=True))
    return lambda rows: np.array([known.get(flow, "") for flow in rows.flow_id.tolist()], object)


def _by_capture(path: str, captures: Sequence[str], column: str) -> Truth:
    """Match captures by file name, or by the named one's stem standing in it as a whole."""
    told = {record["capture"]: record[column] for _, record in _records(path)}
    labels = [told.get(Path(c).name) or _contained(Path(c).name, told) for c in captures]
    return lambda rows: np.array(labels, object)[rows.capture]


def _contained(name: str, told: dict[str, str]) -> str:
    for capture, label in told.items():
        stem = Path(capture).name.split(".")[0]
        if stem and re.search(rf"(?<![A-Za-z0-9]){re.escape(stem)}(?![A-Za-z0-9])", name):
            return label
    return ""


def _by_time(path: str, column: str) -> Truth:
    spans: dict[tuple[frozenset[tuple[bytes, int]], int], list[tuple[int, int, str]]] = {}
    for number, record in _records(path):
        try:
            ends = frozenset(
                (address_bytes(record[f"{end}_address"])[0], int(record[f"{end}_port"]))
                for end in ("source", "destination")
            )
            span = int(record["start_ns"]), int(record["end_ns"]), record[column]
            spans.setdefault((ends, int(record["protocol"])), []).append(span)
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}: line {number}: {error}") from None

    def truth(rows: Rows) -> Texts:
        found = np.full(len(rows.flow_id), "", object)
        for i, (source, destination, protocol) in enumerate(rows.ports.tolist()):
            ends = frozenset(
                ((rows.source[i].tobytes(), source), (rows.destination[i].tobytes(), destination))
            )
            found[i] = _longest(spans.get((ends, protocol), []), int(rows.begin_ns[i]), int(rows.end_ns[i]))
        return found

    return truth


def _longest(spans: list[tuple[int, int, str]], begin_ns: int, end_ns: int) -> str:
    """Return the label that held longest between two times; empty if none did for half of it."""
    held: dict[str, int] = {}
    for start, end, label in spans:
        if label and (shared := min(end, end_ns) - max(start, begin_ns)) > 0:
            held[label] = held.get(label, 0) + shared
    best = max(held, key=lambda label: held[label], default="")
    return best if 2 * held.get(best, 0) >= end_ns - begin_ns else ""
