"""Becomes another program that the kernel kills when the process that started it is gone, however it went.

Run as ``python -I die_with_parent.py PARENT_PID PROGRAM ARGUMENT…``. A program of its own rather than a
``preexec_fn``, which may deadlock when the parent has threads, as every Kafka client has.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then replace this process by the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request was in
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main()
