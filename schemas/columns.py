"""Columns: the Avro ``bytes`` fields that hold one little-endian value per row.

A column is described in the schema file itself (``dtype``, ``unit``, ``doc``), so that any Avro reader plus
``np.frombuffer`` reads it. This module is the only place that turns such a field into an array and back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    return {c.name: np.ascontiguousarray(arrays[c.name], dtype=c.dtype.base).tobytes() for c in columns}


def unpack(record: Mapping[str, Any], columns: Iterable[Column]) -> dict[str, Array]:
    """Turn the ``bytes`` fields of a record into read-only arrays over the same memory.

    Raises:
        CodecError: a column does not hold exactly as many rows as its count field says.
    """
    out: dict[str, Array] = {}
    for c in columns:
        raw, rows = record[c.name], record[c.rows]
        shape = (rows, *c.dtype.shape) if c.width_field is None else (rows, record[c.width_field])
        row_bytes = c.dtype.base.itemsize * math.prod(shape[1:])
        if min(shape) < 0 or len(raw) != rows * row_bytes:
            raise CodecError(f"column {c.name}: {len(raw)} bytes are not {rows} rows of {row_bytes} bytes")
        out[c.name] = np.frombuffer(raw, dtype=c.dtype.base).reshape(shape)
    return out
