"""Ctrl-C and SIGTERM as a request to stop: work drains and sums up; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_BASE = 128


class Stop:
    """A request to stop: ``event`` tells that it came, ``exit_code`` what that makes of it."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None

    @property
    def exit_code(self) -> int:
        """Return the exit code after it: 130 (Ctrl-C), 143 (SIGTERM), 0 while none came."""
        return EXIT_BASE + self.signal if self.signal else 0

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self.event.is_set()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM inside the block into a ``Stop``; a second one interrupts."""
    stop = Stop()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = number
        stop.event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
