"""Keeps the model's state on disk while the worker goes on: a forked copy of the process writes it."""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
import time
from collections import Counter

from models.online.config import OnlineSettings
from models.online.state import Snapshot, StateError, StateFile
from producers.config import BusSettings

log = logging.getLogger("flowgauge")

_SHARE = 0.05
"""Most of the time that a copy may be being written."""
_LIMIT_S = 300
"""A copy that takes longer is given up."""
_OTHER = 255
_FORKS = sys.platform == "linux"
"""Elsewhere a fork of a process with threads is not safe, and the worker waits until the state is written."""


class StateKeeper:
    """Reads the state at the start and writes it now and then; what goes wrong is counted and told, once a reason.

    ``counts``: ``model_states_saved``, ``model_states_failed``, ``model_states_restored``,
    ``model_states_unusable``.
    """

    def __init__(self, settings: OnlineSettings, bus: BusSettings) -> None:
        self.counts: Counter[str] = Counter()
        self.file_bytes = 0
        self.save_s = 0.0
        self._settings = settings
        self._file: StateFile | None = None
        self._child: int | None = None
        self._began_s = 0.0
        self._next_s = time.monotonic() + settings.checkpoint_interval_s
        self._told: set[str] = set()
        if settings.checkpoint_interval_s:
            try:
                self._file = StateFile(settings, bus)
            except StateError as error:
                self._failed(str(error))

    @property
    def is_on(self) -> bool:
        """Return whether the state is kept at all."""
        return self._file is not None

    def restore(self) -> Snapshot | None:
        """Return the state that the last worker left, with the present settings; None to begin anew."""
        if self._file is None:
            return None
        try:
            snapshot = self._file.read()
        except StateError as error:
            self.counts["model_states_unusable"] += 1
            log.error("%s; the model begins anew", error)
            return None
        if snapshot is not None:
            self.counts["model_states_restored"] += 1
            snapshot.learner.adopt(self._settings)
        return snapshot

    def is_due(self) -> bool:
        """Return whether it is time for the next copy."""
        self.poll()
        return self._file is not None and self._child is None and time.monotonic() >= self._next_s

    def save(self, snapshot: Snapshot, *, wait: bool) -> None:
        """Write a state, in a forked process unless ``wait``."""
        if self._file is None:
            return
        self._stop_child()
        self._began_s = time.monotonic()
        if wait or not _FORKS:
            self._finish(_attempt(self._file, snapshot))
            return
        gc.disable()  # in the copy: a collection would write to all its memory, which is shared until then
        try:
            self._child = os.fork()
        except OSError as error:
            self._finish(error.errno or _OTHER)
            return
        finally:
            if self._child != 0:
                gc.enable()
        if self._child == 0:
            _write_and_exit(self._file, snapshot)

    def poll(self) -> None:
        """See whether the copy under way is done."""
        if self._child is None:
            return
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._child = None
            code = os.waitstatus_to_exitcode(status)
            self._finish(code if code >= 0 else _OTHER)

    def close(self) -> None:
        """Stop what is under way and give the place to another worker."""
        self._stop_child()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _stop_child(self) -> None:
        self.poll()
        if self._child is not None:
            # What it holds is older than what is written next.
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            if self._file is not None:
                self._file.discard(self._child)
            self._child = None

    def _finish(self, code: int) -> None:
        """Take note of a copy that ended with this errno, 0 for none."""
        self.save_s = time.monotonic() - self._began_s
        pause_s = max(self._settings.checkpoint_interval_s, self.save_s / _SHARE)
        self._next_s = self._began_s + pause_s
        path = self._file.path if self._file is not None else None
        if code:
            why = os.strerror(code) if code in errno.errorcode else "it cannot be written, or not in time"
            self._failed(f"{path}: {why}")
        elif path is not None:
            self.counts["model_states_saved"] += 1
            self.file_bytes = path.stat().st_size

    def _failed(self, why: str) -> None:
        self.counts["model_states_failed"] += 1
        if why not in self._told:
            self._told.add(why)
            log.error("the model's state is not kept: %s; predicting goes on", why)


def _attempt(file: StateFile, snapshot: Snapshot) -> int:
    """Write a state and return 0, or the errno of what went wrong."""
    try:
        file.write(snapshot)
    except OSError as error:
        return error.errno or _OTHER
    except Exception:
        return _OTHER
    return 0


def _write_and_exit(file: StateFile, snapshot: Snapshot) -> None:
    """Run in the forked process: nothing of the parent's may be touched but the file."""
    code = _OTHER
    try:
        file.close()  # the lock is the parent's: it must be free once that is gone
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LIMIT_S)
        os.nice(5)
        code = _attempt(file, snapshot)
    finally:
        os._exit(code)
