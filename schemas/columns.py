"""Columns: the Avro ``bytes`` fields that hold one little-endian value per row.

A column is described in the schema file itself (``dtype``, ``unit``, ``doc``), so that any Avro reader plus
``np.frombuffer`` reads it. This module is the only place that turns such a field into an array and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
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

    _KEPT_ROWS = 512
    """Batches of fewer rows are those that it matters for, and a layout takes 6 KiB."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Lay the widest first, so that every value is aligned whatever the number of rows."""
        self.names = [c.name for c in columns]
        self._columns = columns
        laid = sorted(columns, key=lambda c: -c.row_bytes)
        self._widths = [c.row_bytes for c in laid]
        self._fields = itemgetter(*(c.name for c in laid))
        before = {c.name: sum(self._widths[:i]) for i, c in enumerate(laid)}
        self.places: NDArray[np.int64] = np.array([(c.row_bytes, before[c.name]) for c in columns], np.int64)
        """(columns, 2): octets of a value, and octets of a row before the column."""
        self.row_octets = sum(self._widths)
        self._kept: dict[int, np.dtype[Any]] = {}

    def empty(self, rows: int) -> NDArray[np.uint8]:
        """Return a buffer for so many rows, of whole words of eight octets."""
        return np.empty((self.row_octets * rows + 7) & ~7, np.uint8)

    def views(self, buffer: NDArray[np.uint8] | bytes, rows: int) -> dict[str, Array]:
        """Return the columns that lie in a buffer by name, in the order in which they were given."""
        dtype = self._kept.get(rows)
        whole: Array = np.ndarray((), self._dtype(rows) if dtype is None else dtype, buffer)
        return {name: whole[name] for name in self.names}

    def unpack(self, record: Mapping[str, Any], rows: int) -> dict[str, Array]:
        """Turn the ``bytes`` fields of a record into read-only arrays, as the function ``unpack`` does.

        Raises:
            CodecError: a column does not hold exactly as many rows.
        """
        raw = self._fields(record)
        if rows >= self._KEPT_ROWS or [*map(len, raw)] != [rows * width for width in self._widths]:
            return unpack(record, self._columns)
        return self.views(b"".join(raw) if rows else b"", rows)

    def _dtype(self, rows: int) -> np.dtype[Any]:
        """Return the type of a record whose fields are the columns."""
        dtype = np.dtype(
            {
                "names": self.names,
                "formats": [(c.element, (rows, *c.width)) for c in self._columns],
                "offsets": (self.places[:, 1] * rows).tolist(),
                "itemsize": self.row_octets * rows,
            }
        )
        if rows < self._KEPT_ROWS:
            self._kept[rows] = dtype
        return dtype


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
