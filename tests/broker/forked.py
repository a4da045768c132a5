"""Worker processes that start in a fraction of a second: forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["flowgauge.cli", "streams.worker", "models.online.worker", "uvloop"])


class Forked:
    """A ``flowgauge`` command in a forked process; has the methods of ``subprocess.Popen`` that the tests use."""

    def __init__(self, arguments: Sequence[str], out: Path, err: Path) -> None:
        self._process = _SERVER.Process(target=_command, args=(list(arguments), out, err), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, how: signal.Signals) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, how)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> int:
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, f"still running after {timeout_s} s"
        return self._process.exitcode


def _command(arguments: list[str], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    sys.argv = ["flowgauge", *arguments]
    from flowgauge.__main__ import main

    main()
