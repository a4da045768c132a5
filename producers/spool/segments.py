"""Segment files: how they are found, read and summed up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from producers.spool.records import HEADER_BYTES, NotWhole, Record, check_header, read_record

_NAME = re.compile(r"(\d{12})\.spool")
_BUFFER = 1 << 18


class Place(NamedTuple):
    """Where a record stands; places of one queue are ordered as its records are."""

    number: int
    offset: int


@dataclass
class Contents:
    """What records there are, from some place on."""

    records: int = 0
    items: int = 0
    by_partition: Counter[int] = field(default_factory=Counter)
    """Packets by partition."""
    first_ns: int | None = None
    """When the first was written."""

    def add(self, record: Record) -> None:
        """Count a record."""
        self.records += 1
        self.items += record.items
        if record.items and record.partition is not None:
            self.by_partition[record.partition] += record.items
        if self.first_ns is None:
            self.first_ns = record.time_ns

    def remove(self, record: Record) -> None:
        """Count a record no more."""
        self.records -= 1
        self.items -= record.items
        if record.items and record.partition is not None:
            self.by_partition[record.partition] -= record.items


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a segment."""
    return folder / f"{number:012d}.spool"


def segment_numbers(folder: Path) -> list[int]:
    """Return the numbers of a folder's segments, in order."""
    return sorted(int(m.group(1)) for path in folder.iterdir() if (m := _NAME.fullmatch(path.name)))


class SegmentReader:
    """Reads the records of one segment, from an offset on; more may be written meanwhile."""

    def __init__(self, path: Path, number: int, offset: int = 0) -> None:
        self.path, self.number = path, number
        self._file = path.open("rb", buffering=_BUFFER)
        try:
            check_header(self._file.read(HEADER_BYTES), number)
        except BaseException:
            self._file.close()
            raise
        self.offset = max(offset, HEADER_BYTES)
        self._file.seek(self.offset)

    def next(self) -> Record | None:
        """Return the next record, None at the end of the file; raises NotWhole."""
        found = read_record(self._file, self.number, self.offset)
        if found is None:
            return None
        record, self.offset = found
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def whole_records(path: Path, number: int, offset: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield (offset behind it, record) of each whole record of a segment from an offset on.

    Raises:
        NotWhole: what stands behind the last one yielded is none.
        OtherVersion: the segment is of another version.
        OSError: it cannot be read.
    """
    reader = SegmentReader(path, number, offset)
    try:
        while (record := reader.next()) is not None:
            yield reader.offset, record
    finally:
        reader.close()


@dataclass
class Fault:
    """Where a segment stops being whole."""

    path: Path
    offset: int
    lost_bytes: int
    reason: str
    is_cut: bool

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.reason} at byte {self.offset}; the {self.lost_bytes:,} bytes from there on are "
            "skipped"
        )


def sum_up(path: Path, number: int, offset: int = 0) -> tuple[int, Contents, Fault | None]:
    """Return up to where a segment is whole, what it holds from an offset up to there, and what is wrong behind that.

    Raises:
        OtherVersion: it is of another version.
        OSError: it cannot be read.
    """
    contents, end = Contents(), max(offset, HEADER_BYTES)
    try:
        for stop, record in whole_records(path, number, offset):
            contents.add(record)
            end = stop
    except NotWhole as fault:
        size = path.stat().st_size
        if str(fault) == "ends inside its header" or size < HEADER_BYTES:
            end = 0
        return end, contents, Fault(path, end, size - end, str(fault), fault.is_cut)
    return end, contents, None
