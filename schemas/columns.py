"""Columns: the Avro ``bytes`` fields that hold one little-endian value per row.

A column is described in the schema file itself (``dtype``, ``unit``, ``doc``), so that any Avro reader plus
``np.frombuffer`` reads it. This module is the only place that turns such a field into an array and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import CodecError

Array = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One column of a batch: its field name, element type (shape included), unit and meaning."""

    name: str
    dtype: np.dtype[Any]
    unit: str
    doc: str
    rows: str
    """Name of the count field that says how many rows this column has."""
    width_field: str | None = None
    """Name of the field that says how many values a row has, where the schema leaves that open."""

    # Reached once per column and message, where NumPy's own attributes would cost more than the decoding.
    @cached_property
    def element(self) -> np.dtype[Any]:
        """Type of one value."""
        return self.dtype.base

    @cached_property
    def width(self) -> tuple[int, ...]:
        """Values in a row, as the shape behind the rows: empty for a plain column."""
        return self.dtype.shape

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a row; where ``width_field`` is set, of one of its values."""
        return self.dtype.itemsize


def columns_of(schema: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the columns that a record schema declares, in the schema's order."""
    return tuple(
        Column(
            name=field["name"],
            dtype=np.dtype((field["dtype"], field["width"]) if "width" in field else field["dtype"]),
            unit=field.get("unit", "1"),
            doc=field.get("doc", ""),
            rows=field["rows"],
            width_field=field.get("width_field"),
        )
        for field in schema["fields"]
        if "dtype" in field
    )


class Block:
    """Columns of one length in one buffer, so that a call makes all of them: arrays cost more than a few values do."""

    _MOST_KEPT = 1024

    def __init__(self, columns: Sequence[Column]) -> None:
        """Lay the widest first, so that every value is aligned whatever the number of rows."""
        self.names = [c.name for c in columns]
        self._shapes = [(c.element, c.width) for c in columns]
        self.places: NDArray[np.int64] = np.zeros((len(columns), 2), np.int64)
        """(columns, 2): octets of a value, and octets of a row before the column."""
        self.row_octets = 0
        for i in sorted(range(len(columns)), key=lambda i: -columns[i].row_bytes):
            self.places[i] = columns[i].row_bytes, self.row_octets
            self.row_octets += columns[i].row_bytes
        self._kept: dict[int, np.dtype[Any]] = {}

    def empty(self, rows: int) -> NDArray[np.uint8]:
        """Return a buffer for so many rows, of whole words of eight octets."""
        return np.empty((self.row_octets * rows + 7) & ~7, np.uint8)

    def views(self, buffer: NDArray[np.uint8], rows: int) -> dict[str, Array]:
        """Return the columns that lie in a buffer by name, in the order in which they were given."""
        dtype = self._kept.get(rows)
        whole: Array = np.ndarray((), self._dtype(rows) if dtype is None else dtype, buffer)
        return {name: whole[name] for name in self.names}

    def _dtype(self, rows: int) -> np.dtype[Any]:
        """Return the type of a record whose fields are the columns."""
        if len(self._kept) >= self._MOST_KEPT:
            self._kept.clear()
        self._kept[rows] = np.dtype(
            {
                "names": self.names,
                "formats": [(element, (rows, *width)) for element, width in self._shapes],
                "offsets": (self.places[:, 1] * rows).tolist(),
                "itemsize": self.row_octets * rows,
            }
        )
        return self._kept[rows]


def pack(arrays: Mapping[str, Array], columns: Iterable[Column]) -> dict[str, bytes]:
    """Turn arrays into the ``bytes`` fields of a record; values are cast to the column's type."""
    return {c.name: np.ascontiguousarray(arrays[c.name], dtype=c.element).tobytes() for c in columns}


def unpack(record: Mapping[str, Any], columns: Iterable[Column]) -> dict[str, Array]:
    """Turn the ``bytes`` fields of a record into read-only arrays over the same memory.

    Raises:
        CodecError: a column does not hold exactly as many rows as its count field says.
    """
    out: dict[str, Array] = {}
    for c in columns:
        rows, row_bytes, width = record[c.rows], c.row_bytes, c.width
        raw = record[c.name] or b""  # fastavro gives the default of a field that was not written as text
        if c.width_field is not None:
            width = (record[c.width_field],)
            row_bytes *= width[0]
        if rows < 0 or row_bytes < 0 or len(raw) != rows * row_bytes:
            raise CodecError(f"column {c.name}: {len(raw)} bytes are not {rows} rows of {row_bytes} bytes")
        # An empty column may be a default that the reader filled in, which is a text.
        column: Array = np.frombuffer(raw or b"", c.element)
        out[c.name] = column.reshape(rows, *width) if width else column
    return out
