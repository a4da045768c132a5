"""Columns: the Avro ``bytes`` fields that hold one little-endian value per row.

A column is described in the schema file itself (``dtype``, ``unit``, ``doc``), so that any Avro reader plus
``np.frombuffer`` reads it. This module is the only place that turns such a field into an array and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
