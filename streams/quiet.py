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

    @property
    def in_outage(self) -> bool:
        """Return whether it has not been quiet for long enough yet."""
        return self._clock() - self._last_s < self._quiet_s

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        now_s = self._clock()
        if not self.in_outage:
            self._to.warning("%s: %s; trying on", self._name, record.getMessage().strip())
        self._last_s = now_s


def calm(library: str, to: logging.Logger, name: str) -> OncePerOutage:
    """Have a library's log go to ``to``, one line an outage; return what tells whether there is one."""
    logger, handler = logging.getLogger(library), OncePerOutage(to, name)
    logger.handlers[:] = [handler]
    logger.propagate = False
    return handler
