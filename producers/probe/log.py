"""Log lines that cannot flood: what is said again and again is said now and then, with how often."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

LOGGER = "flowgauge.probe"
_NUMBERS = re.compile(r"(?<![A-Za-z])[+-]?[\d.,]+")
"""Numbers that stand by themselves: those in names, such as eth0, tell lines apart."""
_KIND_LENGTH = 200
_MOST_KINDS = 1000


class RateLimit(logging.Filter):
    """Lets a line through if none like it, numbers aside, came within the interval.

    Args:
        interval_s: seconds between two of a kind; 0: all pass.
        clock: gives seconds that never go back.
    """

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.interval_s = interval_s
        self._clock = clock
        self._last_s: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be written, with what was held back before it."""
        kind, now_s = _NUMBERS.sub("", record.getMessage())[:_KIND_LENGTH], self._clock()
        if len(self._last_s) > _MOST_KINDS:
            self._last_s.clear()
        if now_s - self._last_s.get(kind, -self.interval_s) < self.interval_s:
            self._held_back[kind] = self._held_back.get(kind, 0) + 1
            return False
        self._last_s[kind] = now_s
        if held_back := self._held_back.pop(kind, 0):
            record.msg = f"{record.getMessage()} ({held_back:,} more like this before)"
            record.args = ()
        return True


def set_up(level: str, interval_s: float) -> None:
    """Set the level and the limit of the probe's log lines; may be called again."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level.upper())
    for old in logger.filters[:]:
        logger.removeFilter(old)
    logger.addFilter(RateLimit(interval_s))
