"""The model's state as a file: written whole or not at all, and read only where it fits."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import river

from models.online.classifiers import recipe
from models.online.config import OnlineSettings
from models.online.learner import OnlineLearner
from producers.config import BusSettings
from schemas.errors import FlowgaugeError

MAGIC = b"flowgauge model state\n"
VERSION = 2
"""Grows when a class that is pickled changes so that older states would not work."""
_DIGEST_BYTES = 32
_SLOTS = 64
_FILE = "state"


class StateError(FlowgaugeError):
    """A state that cannot be used, or nowhere to keep one; the message names the file."""


@dataclass
class Snapshot:
    """A model at a moment: what it has learned, what waits, and which messages are in it."""

    learner: OnlineLearner
    next_offset: dict[tuple[str, int], int]
    """Offset of the first message not in it, by (plain topic, partition)."""
    handed_over: bool
    """Whether the worker then gave its partitions up: what came later is another worker's to learn."""


def identity(settings: OnlineSettings) -> dict[str, Any]:
    """Return what must be equal for a state to be used again."""
    return {
        "version": VERSION,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "river": river.__version__,
        "name": settings.name,
        "representations": sorted(settings.representations),
        "classifier": recipe(settings.classifier, settings.parameters, settings.seed).digest,
        "score_by_depth": sorted(settings.score_by_depth),
        "score_window_labels": settings.score_window_labels,
        "drift": [settings.drift_features, settings.drift_sample_rows],
    }


def directory(settings: OnlineSettings, bus: BusSettings) -> Path:
    """Return the folder of the states of a group's model, one subfolder for each worker on this machine."""
    base = Path(settings.state_dir) if settings.state_dir else _state_home() / "flowgauge" / "models"
    return base / quote(f"{bus.topic_prefix}{settings.group}", safe="") / settings.name


def _state_home() -> Path:
    home = os.environ.get("XDG_STATE_HOME", "")
    # A relative path is not valid there, says the XDG specification.
    return Path(home) if home.startswith("/") else Path.home() / ".local" / "state"


class _Hashed:
    """A file that takes the digest of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Python's own code, not OpenSSL's: a lock held elsewhere at a fork cannot hurt it.
        self.digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._file.write(data)


class StateFile:
    """A worker's own state file. The first worker of a machine takes the first slot, the next the second…"""

    def __init__(self, settings: OnlineSettings, bus: BusSettings) -> None:
        """Take a slot.

        Raises:
            StateError: the folder cannot be made or written to.
        """
        self._identity = identity(settings)
        root = directory(settings, bus)
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock, folder = _take_slot(root)
            self.path = folder / _FILE
            for left in folder.glob(f"{_FILE}.*.part"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{error.filename or root}: {error.strerror or error}") from None

    def write(self, snapshot: Snapshot) -> None:
        """Replace the state; raises OSError, and then the old one stands."""
        part = self._part(os.getpid())
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                out = _Hashed(file)
                out.write(MAGIC + json.dumps(self._identity).encode() + b"\n")
                pickle.dump(snapshot, out, protocol=5)
                file.write(out.digest.digest())
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        with suppress(OSError):
            _sync(self.path.parent)

    def discard(self, pid: int) -> None:
        """Remove what a process that was stopped has written so far."""
        with suppress(OSError):
            self._part(pid).unlink(missing_ok=True)

    def _part(self, pid: int) -> Path:
        return self.path.with_name(f"{_FILE}.{pid}.part")

    def read(self) -> Snapshot | None:
        """Return the state, None where there is none yet. What cannot be used is put aside as ``state.unusable``.

        Raises:
            StateError: it is damaged, of other settings or of another version, or not ours.
        """
        try:
            with self.path.open("rb") as file:
                _check_owner(file)
                data = file.read()
            return self._parsed(data)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            with suppress(OSError):
                self.path.replace(self.path.with_name(f"{_FILE}.unusable"))
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise StateError(f"model state {self.path}: {why}") from None

    def _parsed(self, data: bytes) -> Snapshot:
        if not data.startswith(MAGIC):
            raise ValueError("is not a model state")
        body, digest = memoryview(data)[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
            raise ValueError("is damaged: its checksum is wrong")
        end = data.index(b"\n", len(MAGIC))
        was = json.loads(data[len(MAGIC) : end])
        for name, value in self._identity.items():
            if was.get(name) != value:
                raise ValueError(f"is of another model: {name} is {was.get(name)}, not {value}")
        gc.disable()  # it would look at every new object over and over
        try:
            # Written by ourselves into a folder that is ours alone, as the owner and the checksum tell.
            snapshot = pickle.loads(body[end + 1 :])  # noqa: S301
        except Exception as error:
            raise ValueError(f"cannot be read: {type(error).__name__}: {error}") from None
        finally:
            gc.enable()
        if not isinstance(snapshot, Snapshot):
            raise ValueError("holds something else")
        return snapshot

    def close(self) -> None:
        """Give the slot to the next worker."""
        os.close(self._lock)


def _take_slot(root: Path) -> tuple[int, Path]:
    for slot in range(_SLOTS):
        folder = root / str(slot)
        folder.mkdir(exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return lock, folder
    raise StateError(f"{root}: {_SLOTS} workers keep their state here already")


def _check_owner(file: IO[bytes]) -> None:
    found = os.fstat(file.fileno())
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ValueError(
            "may have been written by someone else: its owner must be us, and no one else may write"
        )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
