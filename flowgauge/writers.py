"""Writes feature rows to a file: Parquet, CSV or JSON lines, by the file name's ending.

A file appears under its name only when it is complete: it is written beside it and renamed at the end.
Whether it can be written at all is found out before any work starts.
"""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from flowgauge.records import FIELDS, record_columns, short_floats
from schemas.columns import Array
from schemas.errors import InputError, SettingsError
from schemas.features import FeatureBatch

_ROWS_AT_ONCE = 65_536


class Writer(ABC):
    """A file of feature rows; a context manager that keeps the file only if the block ends well.

    ``feature_names`` are the columns after ``fields``. A batch with other names, or the same in another order, is
    put in theirs; what it lacks is left empty.
    """

    def __init__(
        self, path: Path, feature_names: tuple[str, ...], fields: Mapping[str, str] = FIELDS
    ) -> None:
        self.path = path
        self.fields = fields
        self.feature_names = feature_names
        self.rows = 0
        self._target = path
        if not path.exists() or path.is_file():
            # A name of our own beside the target: rename works only within a file system.
            self._target = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            if path.is_dir():
                raise IsADirectoryError(0, "is a directory")
            self._file: IO[bytes] = self._target.open("wb")
        except OSError as error:
            raise self._cannot(error) from error
        try:
            self._begin()
        except BaseException:
            self._discard()
            raise

    @abstractmethod
    def _begin(self) -> None:
        """Write what stands before the first row."""

    @abstractmethod
    def _rows(self, columns: dict[str, Any], features: Array) -> None:
        """Write rows given as FIELDS and a (rows, feature_names) float32 matrix."""

    @abstractmethod
    def _end(self) -> None:
        """Write what stands after the last row."""

    def write(self, batch: FeatureBatch) -> None:
        """Append the rows of a batch."""
        if not batch.rows:
            return
        try:
            self._rows(record_columns(batch), self._matrix(batch))
        except OSError as error:
            raise self._cannot(error) from error
        self.rows += batch.rows

    def _matrix(self, batch: FeatureBatch) -> Array:
        matrix = batch.columns["features"]
        if batch.feature_names == self.feature_names:
            return matrix
        unknown = set(batch.feature_names) - set(self.feature_names)
        if unknown:
            raise SettingsError(f"{self.path}: no column for feature {sorted(unknown)[0]}")
        out = np.full((batch.rows, len(self.feature_names)), np.nan, dtype=np.float32)
        for at, name in enumerate(batch.feature_names):
            out[:, self.feature_names.index(name)] = matrix[:, at]
        return out

    def _cannot(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot write: {error.strerror}")

    def _discard(self) -> None:
        with suppress(Exception):  # half a file may not end well, and it goes anyway
            self._end()
        self._file.close()
        if self._target != self.path:
            self._target.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._end()
            self._file.close()
            if self._target != self.path:
                self._target.replace(self.path)
        except OSError as reason:
            self._discard()
            raise self._cannot(reason) from reason


def _lists(columns: dict[str, Any], features: Array, absent: str) -> list[list[Any]]:
    """Return every column as a list of plain values, features last; ``absent`` is for what is no number."""
    plain = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]
    return plain + [_numbers(row, absent) for row in np.ascontiguousarray(short_floats(features).T)]


def _numbers(values: Array, absent: str) -> list[float | str]:
    missing = ~np.isfinite(values)
    if not missing.any():
        return values.tolist()
    out = values.astype(object)
    out[missing] = absent
    return out.tolist()


class JsonLinesWriter(Writer):
    """One JSON object a line; a feature that is not a number is null."""

    def _begin(self) -> None:
        # Every value but the probe's name is a number or a text without anything to escape, so that a
        # template does, in half the time that the json module takes.
        quoted = [f'"{name}":' + ('"%s"' if kind == "string" else "%s") for name, kind in self.fields.items()]
        quoted[list(self.fields).index("probe")] = '"probe":%s'
        names = [json.dumps(name).replace("%", "%%") for name in self.feature_names]
        self._line = "{" + ",".join(quoted + [f"{name}:%s" for name in names]) + "}\n"

    def _rows(self, columns: dict[str, Any], features: Array) -> None:
        probe = json.dumps(columns["probe"][0])
        columns = {**columns, "probe": [probe] * len(features)}
        rows = zip(*_lists(columns, features, "null"), strict=True)
        line = self._line
        self._file.write("".join([line % row for row in rows]).encode())

    def _end(self) -> None:
        self._file.flush()


class CsvWriter(Writer):
    """Comma-separated values with a header line; a feature that is not a number is empty."""

    def _begin(self) -> None:
        self._text = io.TextIOWrapper(self._file, encoding="utf-8", newline="")
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow((*self.fields, *self.feature_names))

    def _rows(self, columns: dict[str, Any], features: Array) -> None:
        self._csv.writerows(zip(*_lists(columns, features, ""), strict=True))

    def _end(self) -> None:
        self._text.flush()


class ParquetWriter(Writer):
    """Parquet by way of pyarrow (the extra ``parquet``), row groups of 65,536 rows and more."""

    def _begin(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa = pa
        fields = [pa.field(name, getattr(pa, kind)(), nullable=False) for name, kind in self.fields.items()]
        fields += [pa.field(name, pa.float32()) for name in self.feature_names]
        self._schema = pa.schema(fields)
        self._waiting: list[Any] = []
        self._waiting_rows = 0
        self._parquet = pq.ParquetWriter(self._file, self._schema, compression="zstd")

    def _rows(self, columns: dict[str, Any], features: Array) -> None:
        arrays = [
            self._pa.array(columns[name], type=getattr(self._pa, kind)())
            for name, kind in self.fields.items()
        ]
        arrays += [self._pa.array(np.ascontiguousarray(features[:, at])) for at in range(features.shape[1])]
        self._waiting.append(self._pa.record_batch(arrays, schema=self._schema))
        self._waiting_rows += len(features)
        if self._waiting_rows >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._parquet.write_table(self._pa.Table.from_batches(self._waiting, schema=self._schema))
        self._waiting, self._waiting_rows = [], 0

    def _end(self) -> None:
        self._flush()
        self._parquet.close()


FORMATS: dict[str, type[Writer]] = {".parquet": ParquetWriter, ".csv": CsvWriter, ".jsonl": JsonLinesWriter}


def open_writer(path: Path, feature_names: tuple[str, ...], fields: Mapping[str, str] = FIELDS) -> Writer:
    """Return the writer for a file name's ending.

    Raises:
        SettingsError: no such format.
        InputError: the file cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise SettingsError(f"{path}: the name must end with one of {', '.join(FORMATS)}")
    return kind(path, feature_names, fields)
