"""Ground truth about flows: the labels file, and the flow ids of its rows.

A labels file is CSV with a header; COLUMNS must be there, others are ignored. A row names a flow by its
five-tuple (in either direction) and the event time of its first packet, exactly.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.columns import allocate
from producers.privacy.privacy import Privacy
from schemas.community_id import address_bytes, is_one_way
from schemas.errors import InputError
from schemas.flow_key import flow_id_of, format_flow_id, hash_five_tuple, probe_hash_of

COLUMNS = (
    "source_address", "destination_address", "source_port", "destination_port", "protocol",
    "start_ns", "end_ns", "label",
)  # fmt: skip
_LIMITS = {
    "source_port": 65535,
    "destination_port": 65535,
    "protocol": 255,
    "start_ns": 2**62,
    "end_ns": 2**62,
}


@dataclass(frozen=True)
class LabelTable:
    """The rows of a labels file, in the order of the flows' ends."""

    source: str
    """Who says so: the name of the file."""
    flow_hash: NDArray[np.uint64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    label: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Return the number of labelled flows."""
        return len(self.label)

    def flow_ids(self, probe: str, offset_ns: int = 0) -> NDArray[np.uint64]:
        """Return the flow id of each row as ``probe`` sees it, with its times moved by ``offset_ns``."""
        return _flow_ids(self.flow_hash, probe_hash_of(probe), self.start_ns + offset_ns)

    def record(
        self, row: int, flow_id: int, probe: str, offset_ns: int, published_ns: int
    ) -> dict[str, object]:
        """Return a row as a ``Label`` record."""
        return {
            "schema_version": 1,
            "flow_id": format_flow_id(flow_id),
            "probe": probe,
            "label": self.label[row],
            "source": self.source,
            "start_ns": int(self.start_ns[row]) + offset_ns,
            "published_time_ns": published_ns,
        }


@njit(cache=True, nogil=True)
def _flow_ids(
    flow_hash: NDArray[np.uint64], probe_hash: np.uint64, start_ns: NDArray[np.int64]
) -> NDArray[np.uint64]:
    out = np.empty(len(flow_hash), dtype=np.uint64)
    for i in range(len(flow_hash)):
        out[i] = flow_id_of(flow_hash[i], probe_hash, start_ns[i])
    return out


@njit(cache=True, nogil=True)
def _flow_hashes(
    a: NDArray[np.uint8], b: NDArray[np.uint8], numbers: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Hash canonical five-tuples; ``numbers`` is (rows, 4): port a, port b, protocol, IP version."""
    out = np.empty(len(a), dtype=np.uint64)
    for i in range(len(a)):
        out[i] = hash_five_tuple(a[i], b[i], numbers[i, 0], numbers[i, 1], numbers[i, 2], numbers[i, 3])
    return out


def _hidden_hashes(
    a: NDArray[np.uint8], b: NDArray[np.uint8], numbers: NDArray[np.int64], privacy: Privacy
) -> NDArray[np.uint64]:
    """Hash five-tuples as ``_flow_hashes`` does, as a probe that hides addresses tells them."""
    columns = allocate(len(a))
    columns.address_a[:], columns.address_b[:] = a, b
    columns.port_a[:], columns.port_b[:], columns.protocol[:], columns.ip_version[:] = numbers.T
    columns.flow_hash[:] = _flow_hashes(a, b, numbers)
    privacy.columns(columns)
    return columns.flow_hash


def read_labels(path: str, privacy: Privacy | None = None) -> LabelTable:
    """Read a labels file; its addresses are true ones, which ``privacy`` hides in the flow ids.

    Raises:
        InputError: it cannot be read or a row is no label; the message names the file and the line.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _table(Path(path).name, list(_rows(path, file)), privacy)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text, so not a labels file") from None


@dataclass(frozen=True)
class _Row:
    a: bytes
    b: bytes
    numbers: tuple[int, int, int, int]
    start_ns: int
    end_ns: int
    label: str


def _rows(path: str, file: Iterable[str]) -> Iterator[_Row]:
    reader = csv.DictReader(file, strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: line 1: no column {missing[0]}; a labels file has {', '.join(COLUMNS)}"
            )
        for raw in reader:
            try:
                yield _row(raw)
            except ValueError as error:
                raise InputError(f"{path}: line {reader.line_num}: {error}") from None
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from None


def _row(raw: dict[str, str | None]) -> _Row:
    values = {name: (raw[name] or "").strip() for name in COLUMNS}
    empty = [name for name, value in values.items() if not value]
    if empty:
        raise ValueError(f"no {empty[0]}")
    numbers = {name: _number(name, values[name], limit) for name, limit in _LIMITS.items()}
    if numbers["end_ns"] < numbers["start_ns"]:
        raise ValueError("end_ns is before start_ns")
    (a, version), (b, other) = _address(values["source_address"]), _address(values["destination_address"])
    if version != other:
        raise ValueError("one address is IPv4, the other IPv6")
    port_a, port_b, protocol = numbers["source_port"], numbers["destination_port"], numbers["protocol"]
    if (b, port_b) < (a, port_a) and not is_one_way(protocol, port_a):
        a, b, port_a, port_b = b, a, port_b, port_a
    five = (port_a, port_b, protocol, version)
    return _Row(a, b, five, numbers["start_ns"], numbers["end_ns"], values["label"])


@cache
def _address(text: str) -> tuple[bytes, int]:
    return address_bytes(text)


def _number(name: str, text: str, limit: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= limit:
        raise ValueError(f"{name} {text!r} is not a whole number from 0 to {limit}")
    return value


def _table(source: str, rows: list[_Row], privacy: Privacy | None) -> LabelTable:
    rows.sort(key=lambda row: (row.end_ns, row.start_ns))
    a = np.frombuffer(b"".join(row.a for row in rows), dtype=np.uint8).reshape(-1, 16)
    b = np.frombuffer(b"".join(row.b for row in rows), dtype=np.uint8).reshape(-1, 16)
    numbers = np.array([row.numbers for row in rows], dtype=np.int64).reshape(-1, 4)
    return LabelTable(
        source=source,
        flow_hash=_flow_hashes(a, b, numbers) if privacy is None else _hidden_hashes(a, b, numbers, privacy),
        start_ns=np.array([row.start_ns for row in rows], dtype=np.int64),
        end_ns=np.array([row.end_ns for row in rows], dtype=np.int64),
        label=tuple(row.label for row in rows),
    )
