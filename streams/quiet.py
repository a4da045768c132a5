"""Keeps a client library from telling the same trouble hundreds of times."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class OncePerOutage(logging.Handler):
    """Passes a logger's first line on, then none until it has been quiet for a while.

    While its broker is away aiokafka writes some 200 lines a second.
    """

    def __init__(
        self, to: logging.Logger, name: str, quiet_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Pass on to ``to``, each line begun with ``name``; an outage ends after ``quiet_s`` without a line."""
        super().__init__(logging.ERROR)
        self._to, self._name, self._quiet_s, self._clock = to, name, quiet_s, clock
        self._last_s = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        now_s = self._clock()
        if now_s - self._last_s >= self._quiet_s:
            self._to.warning("%s: %s; trying on", self._name, record.getMessage().strip())
        self._last_s = now_s


def calm(library: str, to: logging.Logger, name: str) -> None:
    """Have a library's log go to ``to``, one line an outage."""
    logger = logging.getLogger(library)
    logger.handlers[:] = [OncePerOutage(to, name)]
    logger.propagate = False
