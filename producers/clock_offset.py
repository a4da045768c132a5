"""How far this machine's clock is from the broker's: what two stamps of each message leave possible, and no more.

A broker stamps a message when it appends it (``message.timestamp.type=LogAppendTime``, whole milliseconds). That was
after this process handed the message over and before the answer came, by this machine's clock, so the difference of
the clocks lies in an interval as wide as the round trip and a millisecond. Intervals of several messages are
intersected, each widened with its age by as much as clocks may drift apart meanwhile (after Marzullo 1984). No symmetry
of the way is assumed, so the bound is a sound one.
"""

from __future__ import annotations

from typing import NamedTuple

DRIFT = 200e-6
"""Most that two clocks drift apart, s per s: crystals are within 100 parts per million, one on each side."""
_MS_NS = 1_000_000
MAX_WAIT_NS = 5_000_000_000
"""A message that took longer says too little."""


class Offset(NamedTuple):
    """This machine's clock less the broker's."""

    offset_ns: int
    error_ns: int
    """The true difference is no further away than that."""


class ClockOffset:
    """The interval in which the difference lies."""

    def __init__(self) -> None:
        self.steps = 0
        """How often a message contradicted those before: a clock was set."""
        self._low = self._high = 0.0
        self._at_ns: int | None = None

    def sample(self, sent_ns: int, answered_ns: int, appended_ms: int) -> None:
        """Take in a message.

        Args:
            sent_ns: this machine's wall clock before it was handed over, ns since the Unix epoch.
            answered_ns: the same when the answer was there.
            appended_ms: the broker's stamp, ms since the Unix epoch, rounded down.
        """
        if not 0 <= answered_ns - sent_ns <= MAX_WAIT_NS:
            return
        low, high = float(sent_ns - (appended_ms + 1) * _MS_NS), float(answered_ns - appended_ms * _MS_NS)
        if self._at_ns is not None:
            drift = DRIFT * abs(answered_ns - self._at_ns)
            both = max(low, self._low - drift), min(high, self._high + drift)
            if both[0] <= both[1]:
                low, high = both
            else:
                self.steps += 1
        self._low, self._high, self._at_ns = low, high, answered_ns

    def estimate(self, now_ns: int) -> Offset | None:
        """Return the middle of the interval and half its width at ``now_ns``; None before the first message."""
        if self._at_ns is None:
            return None
        drift = DRIFT * abs(now_ns - self._at_ns)
        return Offset(round((self._low + self._high) / 2), round((self._high - self._low) / 2 + drift))
