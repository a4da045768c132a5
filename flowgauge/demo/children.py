"""Workers as child processes that never outlive the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.broker import die_with_parent
from schemas.errors import FlowgaugeError

STOP_TIMEOUT_S = 6.0
KILL_TIMEOUT_S = 3.0
_LAST_LINES = 5


class Child:
    """One subcommand of flowgauge in a process group of its own, so that Ctrl-C is the demo's to handle."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        guard = [sys.executable, "-I", str(die_with_parent.__file__), str(os.getpid())]
        command = [*guard, sys.executable, "-m", "flowgauge", name, *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise FlowgaugeError with its last words if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise FlowgaugeError(f"{self.name} ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last lines that it printed, in one line."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(line.strip() for line in lines[-_LAST_LINES:]) or "(it said nothing)"


class Children:
    """The demo's workers; leaving the block ends them, with SIGTERM first and SIGKILL when that takes too long."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[Child] = []

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start ``flowgauge NAME ARGUMENT…``; call it from the main thread, with which Linux ends the child."""
        child = Child(name, arguments, self.directory)
        self.running.append(child)
        return child

    def check(self) -> None:
        """Raise FlowgaugeError if one has ended."""
        for child in self.running:
            child.check()

    def stop(self) -> list[str]:
        """End all; return the names of those that had to be killed."""
        for child in self.running:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        killed = [child.name for child in self.running if not _gone(child, deadline - time.monotonic())]
        for child in self.running:
            # The group too: whatever a worker may have started.
            _signal(child, signal.SIGKILL)
            _gone(child, KILL_TIMEOUT_S)
        self.running.clear()
        return killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _signal(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _gone(child: Child, timeout_s: float) -> bool:
    try:
        child.process.wait(max(0.0, timeout_s))
    except subprocess.TimeoutExpired:
        return False
    return True
