"""The recording on disk: files that appear whole, and one note per topic-partition that says what they cover.

Under the recording's folder ``_recording/`` holds what is not data: the lock, notes, and files not yet complete. To
write a segment, its files are written there and synced; then its note replaces the one before (this is the moment at
which the segment is recorded); then the files move to their names. A restart finishes the moves that the note tells
of, drops what no note names, and goes on at the note's next offset.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from flowgauge.recording.layout import Key, file_name, folder_of
from schemas.errors import InputError

OWN = "_recording"
_VERSION = 1
_ROW_GROUP = 131_072


class Written(NamedTuple):
    """What a commit put on disk."""

    files: int
    octets: int


class Store:
    """The recording in one folder; a context manager that keeps other recorders out.

    Raises:
        InputError: the folder cannot be used, another process records into it, or a note is broken.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own = root / OWN
        self._notes: dict[tuple[str, int], dict[str, Any]] = {}
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Store:
        with self._told("cannot record there"):
            self._own.mkdir(parents=True, exist_ok=True)
            self._lock = (self._own / "lock").open("wb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.root}: another process records into it") from None
            self._recover()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.root}: {what}: {error.strerror or error}") from error

    def _recover(self) -> None:
        for path in sorted(self._own.glob("*.json")):
            try:
                note = json.loads(path.read_text(encoding="utf-8"))
                if note["version"] != _VERSION:
                    raise ValueError(f"version {note['version']}")
                self._notes[note["topic"], int(note["partition"])] = note
                int(note["next_offset"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: not a note of a recording: {error}") from None
            self._move(note["files"])
        for part in self._own.glob("*.part"):
            part.unlink()

    def _move(self, files: Mapping[str, str]) -> None:
        """Give finished files their names; those that were moved before are passed over."""
        folders = set()
        for part, final in files.items():
            source, target = self._own / part, self.root / final
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
                folders.add(target.parent)
        for folder in folders:
            self._sync_folders(folder)

    def _sync_folders(self, folder: Path) -> None:
        while folder != self.root.parent:
            _sync(folder)
            folder = folder.parent

    def note(self, topic: str, partition: int) -> dict[str, Any] | None:
        """Return what is known of a topic-partition (``next_offset``, ``bus``), None if nothing was recorded.

        Raises:
            InputError: there are files of it, but no note: where to go on is not known.
        """
        found = self._notes.get((topic, partition))
        pattern = f"topic={topic}/*/*/*/{topic}-{partition:04}-*.parquet"
        if found is None and (stray := next(self.root.glob(pattern), None)) is not None:
            raise InputError(
                f"{stray}: recorded, but {self._own} does not tell up to where; record into another folder"
            )
        return found

    def commit(
        self,
        topic: str,
        partition: int,
        offsets: tuple[int, int],
        rows: Mapping[Key, Sequence[Any]],
        facts: Mapping[str, Any],
    ) -> Written:
        """Record a segment: the rows of the messages from ``offsets[0]`` to before ``offsets[1]``.

        Args:
            topic: full name.
            partition: its partition.
            offsets: first offset, and the one to go on with.
            rows: record batches by key, all of one key with the same columns.
            facts: what the note and every file tell besides, such as the bus.

        Raises:
            InputError: it cannot be written; nothing of the segment is visible then, or all of it once the
                store is opened again.
        """
        first, following = offsets
        about = {
            "topic": topic,
            "partition": partition,
            "first_offset": first,
            "next_offset": following,
            **facts,
        }
        files: dict[str, str] = {}
        octets = 0
        noted = False
        try:
            with self._told("cannot write"):
                for key, batches in rows.items():
                    name = file_name(topic, partition, first, following, key)
                    part = f"{len(files):05}-{name}.part"
                    files[part] = str(folder_of(topic, key) / name)
                    told = {**about, "date": key.date, "probe": key.probe, "service": key.service}
                    octets += _write(self._own / part, batches, told)
                _sync(self._own)
                note = self._write_note({"version": _VERSION, **about, "files": files})
                note.replace(note.with_suffix(""))
                noted = True  # even if what follows fails: the files belong to the recording now
                _sync(self._own)
                self._move(files)
        finally:
            if not noted:
                for part in files:
                    with suppress(OSError):
                        (self._own / part).unlink(missing_ok=True)
        return Written(len(files), octets)

    def begin(self, topic: str, partition: int, offset: int, facts: Mapping[str, Any]) -> None:
        """Note where a topic-partition begins, before anything of it is recorded."""
        self.commit(topic, partition, (offset, offset), {}, facts)

    def _write_note(self, note: dict[str, Any]) -> Path:
        """Write and sync a note beside the one that it is to replace."""
        path = self._own / f"{note['topic']}-{note['partition']:04}.json.part"
        with path.open("w", encoding="utf-8") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        return path


def _write(path: Path, batches: Sequence[Any], about: Mapping[str, Any]) -> int:
    """Write and sync one Parquet file; return its size in octets."""
    table = pa.Table.from_batches(batches)
    schema = table.schema.with_metadata({"flowgauge": json.dumps(about)})
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with path.open("wb") as file:
        # A dictionary pays for texts and for what a whole batch shares; tried on other numbers it costs time.
        with pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=texts
        ) as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _sync(folder: Path) -> None:
    """Make a folder's entries last."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
