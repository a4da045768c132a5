"""Child processes of a measurement: none outlives it, and each tells the CPU time it took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import infra.broker.die_with_parent
from schemas.errors import BusError

_TERM_WAIT_S = 20.0
_GUARD = infra.broker.die_with_parent.__file__


class Child:
    """A process in a group of its own, so that Ctrl-C reaches it only through us; a context manager that ends it."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        guard = [sys.executable, "-I", _GUARD, str(os.getpid())] if sys.platform == "linux" else []
        self._process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.poll() is None

    def cpu_s(self) -> float | None:
        """Return the CPU time that the running process has taken."""
        return cpu_seconds(self.pid)

    def terminate(self) -> None:
        """Ask it to end."""
        if self.running:
            self._process.terminate()

    def wait(self, timeout_s: float) -> str:
        """Wait for the process's end and return what it printed.

        Raises:
            BusError: it failed, or is not done in time; the message has its last line.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BusError(f"{self.name} did not end within {timeout_s:.0f} s") from None
        if code:
            raise self.failure()
        return _text(self._out)

    def failure(self) -> BusError:
        """Return the error that the process's end is."""
        lines = _text(self._err).strip().splitlines() or ["it said nothing"]
        return BusError(f"{self.name} ended with code {self._process.poll()}: {lines[-1]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for how, wait_s in ((signal.SIGTERM, _TERM_WAIT_S), (signal.SIGKILL, _TERM_WAIT_S)):
            if self.running:
                # A peer has processes of its own; they are in its group.
                os.killpg(self.pid, how)
                try:
                    self._process.wait(wait_s if error is None else wait_s / 10)
                except subprocess.TimeoutExpired:
                    continue
        self._out.close()
        self._err.close()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def output_of(command: Sequence[str], timeout_s: float = 600.0) -> str:
    """Run a command and return what it printed; raises BusError as ``Child.wait`` does."""
    with Child(command[2], command) as child:
        return child.wait(timeout_s)


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of a running process and of its ended children; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything, so the fields are counted from behind it: utime is field 14.
    fields = text.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
