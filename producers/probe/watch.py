"""A folder that captures are written into, as ``tcpdump -G`` and ``dumpcap -b`` do: read in order, each packet once.

A file is complete when one that comes after it in order is there, or when it has not changed for a while. Until then it
is left alone, or followed as it grows. What was read is remembered in a file beside the captures, once all of it is on
the bus (``settled``): so after a crash some packets may come twice, and none is missed.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from producers.columns import PacketColumns
from producers.names.told import Told
from producers.probe.config import ProbeSettings
from producers.probe.log import LOGGER
from producers.probe.source import Block, Reading
from producers.probe.streamed import NothingYet, StreamedCapture, warm_up
from schemas.errors import InputError, SettingsError

log = logging.getLogger(LOGGER)

LOOK_S = 1.0
"""Time between two looks into the folder."""
_HEAD_OCTETS = 64
"""By its first octets, the time of its first packet among them, a file is known from another of the same name."""
Read = tuple[PacketColumns, Told, int]
"""Packets, the names they told, and the first row that was not read before."""


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched."""

    folder: Path
    state: Path
    """Where it is remembered what was read."""
    pattern: str = "*.pcap*"
    follow: bool = False
    """Whether the newest file is read while it grows."""
    quiet_s: float = 60.0
    """How long the newest file must not have changed to be complete."""
    after: Literal["keep", "delete", "move"] = "keep"
    move_to: Path | None = None


@dataclass
class Remembered:
    """What was read of a file."""

    head: str
    """Its first octets, hexadecimal."""
    size: int
    """Octets that it had when its end was read; -1 before."""
    packets: int
    """Packets of it that were read."""


class _Open:
    """A file that is being read."""

    def __init__(self, path: Path, file: BinaryIO, known: Remembered | None, reading: Reading) -> None:
        self.path, self.file = path, file
        self.complete = False
        head = os.pread(file.fileno(), _HEAD_OCTETS, 0).hex()
        again = known is not None and _same_head(known.head, head)
        self.skip = known.packets if again and known is not None else 0
        """Packets that were read before."""
        self.remembered = Remembered(head, -1, 0)
        self.capture = StreamedCapture(path.name, self, reading)

    def read(self, size: int) -> bytes:
        """Return some bytes; at the end of a file that may grow, NothingYet is raised."""
        data = self.file.read(size)
        if not data and not self.complete:
            raise NothingYet
        return data

    def new_packets(self) -> Read | None:
        """Return packets that were not read before."""
        while (found := self.capture.read()) is not None:
            columns, told = found
            self.remembered.packets += columns.packets
            first = min(self.skip, columns.packets)
            self.skip -= first
            if first < columns.packets:
                return columns, told, first
        return None


class WatchSource:
    """Reads the files of a folder as they become complete, or as they grow.

    Args:
        options: which, and how.
        clock_s: never goes back.
        wall_s: the clock that files' times are of.

    Raises:
        SettingsError: no such folder, or what is remembered cannot be read.
    """

    def __init__(
        self,
        options: WatchOptions,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.at_end = str(options.folder), False
        self._options, self._clock_s, self._wall_s = options, clock_s, wall_s
        for folder, key in ((options.folder, "watch"), (options.move_to, "watch_move_to")):
            if folder is not None and not folder.is_dir():
                raise SettingsError(f"probe.{key} = {folder}: no such folder")
        self._files = _load(options.state)
        self._open: _Open | None = None
        self._finished: list[Path] = []
        """Files read to their end that are not settled yet."""
        self._changed = self._stopped = False
        self._refused: dict[str, int] = {}
        """Time of the last change of files that cannot be read, by name."""
        self._next_look_s = clock_s()
        self._events: Counter[str] = Counter()
        self._frames: Counter[str] = Counter()
        self._waiting = 0

    def start(self, reading: Reading) -> None:
        """Take in how to read; compiles or loads the kernels."""
        self._reading = reading
        warm_up(reading)
        if self._open is not None:
            self._open.capture.use(reading)

    def reload(self, settings: ProbeSettings) -> None:
        """Do nothing: where captures come from stays as it is."""

    def files(self) -> Sequence[int]:
        """Return nothing: a folder is looked into now and then."""
        return ()

    def read(self) -> Block | None:
        """Return packets of the file that is open, or else of the next one."""
        if self._open is None and not self._stopped and self._clock_s() >= self._next_look_s:
            self._look()
        file = self._open
        if file is None or self._stopped:
            return None
        try:
            found = file.new_packets()
        except InputError as error:
            self._refuse(file, "files_refused", str(error))
            return None
        except OSError as error:
            self._refuse(file, "files_unreadable", f"{file.path}: cannot be read: {error.strerror or error}")
            return None
        if file.capture.at_end:
            self._finish(file)
        if found is None:
            return None
        self._changed = True
        return Block(file.path.name, *found)

    def _look(self) -> None:
        """Open the first file that is to be read, if one can be."""
        pending = self._pending()
        self._waiting = len(pending)
        if not pending:
            self._next_look_s = self._clock_s() + LOOK_S
            return
        path, status = pending[0]
        complete = len(pending) > 1 or self._wall_s() - status.st_mtime >= self._options.quiet_s
        if not complete and not self._options.follow:
            self._next_look_s = self._clock_s() + LOOK_S
            return
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._refused[path.name] = status.st_mtime_ns
                self._events["files_unreadable"] += 1
                log.warning("%s: cannot be read: %s", path, error.strerror)
            return
        self._open = _Open(path, file, self._files.get(path.name), self._reading)  # type: ignore[arg-type]
        self._open.complete = complete

    def _pending(self) -> list[tuple[Path, os.stat_result]]:
        """Return the files that are to be read, in order; forget those that are gone."""
        found = {}
        with os.scandir(self._options.folder) as entries:
            for entry in entries:
                if fnmatch.fnmatch(entry.name, self._options.pattern) and entry.is_file():
                    found[entry.name] = entry.stat()
        for gone in self._files.keys() - found.keys():
            del self._files[gone]
        unsettled = {path.name for path in self._finished}
        return [
            (self._options.folder / name, found[name])
            for name in sorted(found, key=_natural)
            if self._refused.get(name) != found[name].st_mtime_ns
            and name not in unsettled
            and self._is_new(name, found[name])
        ]

    def _is_new(self, name: str, status: os.stat_result) -> bool:
        """Return whether a file has something that was not read: it is unknown, has grown, or was written anew."""
        known = self._files.get(name)
        if known is None or status.st_size != known.size:
            return status.st_size > 0
        try:
            with (self._options.folder / name).open("rb") as file:
                return not _same_head(known.head, file.read(_HEAD_OCTETS).hex())
        except OSError:
            return False

    def _finish(self, file: _Open) -> None:
        if file.capture.warning:
            self._events["files_cut"] += 1
            log.warning("%s: %s", file.path, file.capture.warning)
        self._events["files_read"] += 1
        self._put_away(file)
        self._finished.append(file.path)

    def _refuse(self, file: _Open, event: str, line: str) -> None:
        """Go past a file that is no capture, or can be read no further; it stays where it is."""
        self._events[event] += 1
        log.warning("%s", line if str(file.path) in line else f"{file.path.parent}/{line}")
        self._put_away(file)

    def _put_away(self, file: _Open) -> None:
        file.remembered.size = os.fstat(file.file.fileno()).st_size
        self._files[file.path.name] = file.remembered
        self._frames.update(file.capture.frames())
        file.file.close()
        self._open, self._changed = None, True

    def tick(self) -> None:
        """See whether the file that is followed has become complete."""
        file = self._open
        if file is None or file.complete or self._clock_s() < self._next_look_s:
            return
        self._next_look_s = self._clock_s() + LOOK_S
        pending = self._pending()
        self._waiting = len(pending)
        quiet_s = self._wall_s() - os.fstat(file.file.fileno()).st_mtime
        file.complete = quiet_s >= self._options.quiet_s or any(
            path.name != file.path.name for path, _ in pending
        )

    def settled(self) -> None:
        """Take in that all packets read so far are on the bus: remember them, and put files away."""
        if not self._changed:
            return
        if self._open is not None:
            self._files[self._open.path.name] = self._open.remembered
        try:
            _save(self._options.state, self._files)
        except OSError as error:
            self._events["state_not_written"] += 1
            log.error(
                "%s: cannot be written: %s; after a restart files come again",
                self._options.state,
                error.strerror,
            )
        self._changed = False
        finished, self._finished = self._finished, []
        for path in finished if self._options.after != "keep" else ():
            self._away(path)

    def _away(self, path: Path) -> None:
        try:
            if self._options.move_to is not None and self._options.after == "move":
                path.replace(self._options.move_to / path.name)
            else:
                path.unlink()
            self._files.pop(path.name, None)
            self._changed = True
        except OSError as error:
            self._events["files_not_put_away"] += 1
            log.warning("%s: cannot be put away: %s", path, error.strerror)

    def stop(self) -> None:
        """Begin no other file, and read no further than now."""
        self._stopped = True

    def frames(self) -> Counter[str]:
        """Return the packets read, and by reason those skipped."""
        return self._frames + (Counter() if self._open is None else self._open.capture.frames())

    def events(self) -> Counter[str]:
        """Return what happened to files."""
        return self._events.copy()

    def gauges(self) -> dict[str, float]:
        """Return how many files are still to be read."""
        return {"files_waiting": float(self._waiting)}

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._frames.update(self._open.capture.frames())
            self._open.file.close()
            self._open = None


def _same_head(known: str, head: str) -> bool:
    """Return whether a file still begins as it did; it may have been shorter than its head is now."""
    return bool(known) and head.startswith(known)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts ``a9`` before ``a10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _load(path: Path) -> dict[str, Remembered]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: Remembered(**entry) for name, entry in found["files"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"probe.watch_state = {path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError):
        raise SettingsError(
            f"probe.watch_state = {path}: not what a probe remembers; remove it to read all files again"
        ) from None


def _save(path: Path, files: dict[str, Remembered]) -> None:
    """Write the file so that it is whole at any moment, also after a crash."""
    half = path.with_name(f"{path.name}.part")
    text = json.dumps({"files": {name: asdict(entry) for name, entry in files.items()}})
    with half.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
