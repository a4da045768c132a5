"""The queue: segments in a folder, written at one end, read and deleted at the other, bounded in size.

Not for several threads, but for ``sync``, which a thread of its own may call.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from producers.spool.records import (
    HEADER_BYTES,
    NotWhole,
    OtherVersion,
    Record,
    encode_record,
    segment_header,
)
from producers.spool.segments import (
    Contents,
    Fault,
    Place,
    SegmentReader,
    segment_numbers,
    segment_path,
    sum_up,
)
from schemas.errors import InputError, SettingsError

_CURSOR = struct.Struct("<QQI")


class DiskQueue:
    """A queue of records on disk; opening it takes over what an earlier process left.

    Args:
        folder: made if it is not there.
        segment_bytes: size from which on another segment is begun.
        on_fault: told of each segment that is not whole, and what is known to be lost in it; what is whole stays.

    Raises:
        SettingsError: the folder cannot be used, or another process has it.
        InputError: a segment is of another version.
    """

    def __init__(self, folder: Path, segment_bytes: int, on_fault: Callable[[Fault, Contents], None]) -> None:
        self.folder, self._segment_bytes, self._on_fault = folder, segment_bytes, on_fault
        self._lock_file = _locked(folder)
        self._guard, self._syncing = threading.Lock(), threading.Lock()
        self._to_sync: list[int] = []
        self._file: int | None = None
        self.sizes: dict[int, int] = {}
        """Bytes that are whole, by segment, in order."""
        self.unread: dict[int, Contents] = {}
        """What has not been read yet, by segment."""
        self.found = Contents()
        """What an earlier process left."""
        self._cursor = _read_cursor(folder)
        self._reader: SegmentReader | None = None
        try:
            self._take_over()
        except BaseException:
            self.close()
            raise
        last = max(self.sizes, default=max(self._cursor.number, 0))
        self.first_own = last + 1
        """Number of the first segment that is written now: nobody appends to what may be cut short."""
        self.end = Place(last + 1, HEADER_BYTES)
        """Where the next record will stand."""
        self.next = min((Place(n, HEADER_BYTES) for n in self.sizes), default=self.end)
        """Where the next record to be read stands."""
        if self._cursor.number in self.sizes:
            self.next = max(self.next, self._cursor)
        self.acked = self.next
        self._synced = self.end, self.acked

    def _take_over(self) -> None:
        for number in segment_numbers(self.folder):
            path = segment_path(self.folder, number)
            if number < self._cursor.number:
                path.unlink()
                continue
            offset = self._cursor.offset if number == self._cursor.number else 0
            try:
                end, contents, fault = sum_up(path, number, offset)
            except OtherVersion as error:
                raise InputError(f"spool segment {path} {error}; move it away to start") from None
            except OSError as error:
                raise InputError(f"spool segment {path}: {error.strerror or error}") from None
            if fault is not None:
                self._on_fault(fault, Contents())
            self._count_found(contents)
            if contents.records:
                self.sizes[number], self.unread[number] = end, contents
            else:
                path.unlink()

    def _count_found(self, contents: Contents) -> None:
        self.found.records += contents.records
        self.found.items += contents.items
        self.found.by_partition += contents.by_partition
        if self.found.first_ns is None:
            self.found.first_ns = contents.first_ns

    @property
    def bytes(self) -> int:
        """Return what the segments take on disk."""
        return sum(self.sizes.values())

    @property
    def is_read(self) -> bool:
        """Return whether every record has been read."""
        return self.next >= self.end

    def append(self, record: Record, *, is_read: bool = False) -> Place:
        """Write a record; return where it stands. ``is_read``: as all before it, it is not to be read again.

        Raises:
            OSError: it cannot be written; the queue is as before.
        """
        if self._file is None or self.end.offset >= self._segment_bytes:
            self._begin_segment()
        file, place = self._file, self.end
        assert file is not None  # noqa: S101
        raw = encode_record(record, place.number, place.offset)
        try:
            written = os.pwrite(file, raw, place.offset)
            while written < len(raw):
                written += os.pwrite(file, raw[written:], place.offset + written)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, place.offset)
            raise
        self.end = Place(place.number, place.offset + len(raw))
        self.sizes[place.number] = self.end.offset
        if is_read:
            self.next = self.end
        else:
            self.unread[place.number].add(record)
        return place

    def _begin_segment(self) -> None:
        number = self.end.number + (self._file is not None)
        path = segment_path(self.folder, number)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, segment_header(number), 0)
        except OSError:
            os.close(file)
            with suppress(OSError):
                path.unlink()
            raise
        was_read = self.is_read
        with self._guard:
            if self._file is not None:
                self._to_sync.append(self._file)
            self._file = file
        self.end = Place(number, HEADER_BYTES)
        self.sizes[number], self.unread[number] = HEADER_BYTES, Contents()
        if was_read:
            self.next = self.end

    def read(self) -> tuple[Place, Record] | None:
        """Return the next record and where it stands; None where all were read. Segments not whole are passed over."""
        while not self.is_read:
            place = self.next
            if place.offset >= self.sizes.get(place.number, 0):
                later = [n for n in self.sizes if n > place.number]
                self.next = Place(min(later), HEADER_BYTES) if later else self.end
                continue
            try:
                record = self._read_at(place)
            except (NotWhole, OSError) as error:
                self._pass_over(place, error)
                continue
            return place, record
        return None

    def holds(self, place: Place) -> bool:
        """Return whether the record at a place that was read or written before is still there."""
        return place.offset < self.sizes.get(place.number, 0)

    def read_again(self, place: Place) -> Record | None:
        """Return the record at a place that was read or written before; None where it is gone."""
        if not self.holds(place):
            return None
        try:
            reader = SegmentReader(segment_path(self.folder, place.number), place.number, place.offset)
            try:
                return reader.next()
            finally:
                reader.close()
        except (NotWhole, OSError):
            return None

    def _read_at(self, place: Place) -> Record:
        reader = self._reader
        if reader is None or reader.number != place.number or reader.offset != place.offset:
            self._close_reader()
            reader = self._reader = SegmentReader(
                segment_path(self.folder, place.number), place.number, place.offset
            )
        record = reader.next()
        if record is None:
            raise NotWhole("ends before its last record", is_cut=True)
        self.next = Place(place.number, reader.offset)
        self.unread[place.number].remove(record)
        return record

    def _pass_over(self, place: Place, error: Exception) -> None:
        """Leave out what is left of a segment that cannot be read any more."""
        self._close_reader()
        path, size = segment_path(self.folder, place.number), self.sizes[place.number]
        lost, self.unread[place.number] = self.unread[place.number], Contents()
        if place.number == self.end.number:
            self.next = self.end
        else:
            self.sizes[place.number] = place.offset
        self._on_fault(Fault(path, place.offset, size - place.offset, str(error), is_cut=False), lost)

    def acknowledge(self, place: Place) -> None:
        """Say that no record before a place is needed any more; segments that end before it are deleted."""
        self.acked = max(self.acked, place)
        for number in [n for n in self.sizes if n < self.acked.number]:
            self._remove(number)
        if self.acked >= self.end and self.end.offset > HEADER_BYTES:
            self._start_over()

    def _start_over(self) -> None:
        """Delete the segment written to, of which nothing is needed any more: the queue is empty."""
        number = self.end.number
        with self._guard:
            if self._file is not None:
                os.close(self._file)
            self._file = None
        self.end = self.next = self.acked = Place(number + 1, HEADER_BYTES)
        self._remove(number)

    def drop_oldest(self) -> Contents | None:
        """Delete the oldest segment and return what of it was not read; None where only the one written to is left."""
        number = min(self.sizes, default=self.end.number)
        if number >= self.end.number:
            return None
        left = self.unread[number]
        self._remove(number)
        return left

    def _remove(self, number: int) -> None:
        if self._reader is not None and self._reader.number == number:
            self._close_reader()
        with suppress(FileNotFoundError):
            segment_path(self.folder, number).unlink()
        del self.sizes[number], self.unread[number]
        if self.next.number <= number:
            self.next = Place(min(self.sizes, default=self.end.number), HEADER_BYTES)

    def sync(self) -> None:
        """Have the disk keep what was written, and up to where it is acknowledged.

        Raises:
            OSError: the disk does not.
        """
        with self._syncing:
            with self._guard:
                files, self._to_sync = self._to_sync, []
                if not files and (self.end, self.acked) == self._synced:
                    return
                if self._file is not None:
                    files.append(os.dup(self._file))
                end, acked = self.end, self.acked
            try:
                for file in files:
                    os.fdatasync(file)
            finally:
                for file in files:
                    os.close(file)
            _write_cursor(self.folder, acked)
            self._synced = end, acked

    @property
    def synced(self) -> Place:
        """Return up to where the disk is known to have everything."""
        return self._synced[0]

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        self._close_reader()
        with self._guard:
            files, self._to_sync = self._to_sync, []
            for file in [*files, *([] if self._file is None else [self._file])]:
                os.close(file)
            self._file = None
        os.close(self._lock_file)


def _locked(folder: Path) -> int:
    """Make the folder if need be and lock it; return the lock's file."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"spool.path {folder}: cannot be used: {error.strerror or error}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(file, 20, 0).decode("ascii", "replace").strip()
        os.close(file)
        raise SettingsError(
            f"spool.path {folder}: process {owner or 'unknown'} has it; each probe needs a folder of its own"
        ) from None
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _read_cursor(folder: Path) -> Place:
    """Return from where on records are needed; the very beginning where nothing whole tells it."""
    try:
        raw = (folder / "cursor").read_bytes()
    except OSError:
        return Place(0, 0)
    if len(raw) != _CURSOR.size or _CURSOR.unpack(raw)[2] != crc32(raw[:-4]):
        return Place(0, 0)
    number, offset, _ = _CURSOR.unpack(raw)
    return Place(number, offset)


def _write_cursor(folder: Path, place: Place) -> None:
    head = struct.pack("<QQ", *place)
    path, fresh = folder / "cursor", folder / "cursor.new"
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, head + struct.pack("<I", crc32(head)))
        os.fdatasync(file)
    finally:
        os.close(file)
    fresh.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
