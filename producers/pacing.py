"""When packets are due: the timeline of a paced replay, and the clock it sleeps by."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SettingsError


class Clock(Protocol):
    """What tells the time and sleeps; tests move it by hand."""

    def wall_ns(self) -> int:
        """Return ns since the Unix epoch."""

    def monotonic_ns(self) -> int:
        """Return ns of a clock that never goes back."""

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Sleep, no longer than until ``stop`` is set."""


class SystemClock:
    """The machine's own clock."""

    def wall_ns(self) -> int:
        """Return ns since the Unix epoch."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return ns of a clock that never goes back."""
        return time.monotonic_ns()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Sleep, no longer than until ``stop`` is set."""
        stop.wait(seconds)


def parse_speed(text: str) -> float | None:
    """Return how many times faster than captured, or None for ``max``: as fast as it goes.

    Raises:
        SettingsError: neither ``max`` nor a positive number.
    """
    if text.strip().lower() == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise SettingsError(f"speed {text!r}: a positive number (1 is as captured) or max")
    return speed


class Timeline:
    """Places packets on the time of a paced replay, in ns from its start.

    It follows the capture's own times, but a step of more than ``max_gap_ns``, forward or backward, counts as
    that much: a long silence is cut short, and one wild timestamp does not put the replay to sleep. A packet
    is never due before the one it follows.
    """

    def __init__(self, max_gap_ns: int, start_ns: int) -> None:
        self._max_gap_ns = max_gap_ns
        self._last_ns = start_ns
        self._at_ns = 0
        self._due_ns = 0

    def due_ns(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return when each packet is due, from the capture times of the packets that come next."""
        if not len(time_ns):
            return time_ns
        steps = np.diff(time_ns, prepend=self._last_ns).clip(-self._max_gap_ns, self._max_gap_ns)
        steps[0] += self._at_ns
        at = np.cumsum(steps)
        due: NDArray[np.int64] = np.maximum.accumulate(np.maximum(at, self._due_ns))
        self._last_ns, self._at_ns, self._due_ns = int(time_ns[-1]), int(at[-1]), int(due[-1])
        return due


class Pacer:
    """Maps a timeline to the clock at a speed."""

    def __init__(self, clock: Clock, speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._start_ns = clock.monotonic_ns()

    def now_ns(self) -> int:
        """Return up to where on the timeline packets are due by now."""
        return int((self._clock.monotonic_ns() - self._start_ns) * self._speed)

    def behind_ns(self, due_ns: int) -> int:
        """Return how long ago, by the clock, a point of the timeline was; 0 if it is still to come."""
        return max(0, self._clock.monotonic_ns() - self._start_ns - int(due_ns / self._speed))

    def scaled_ns(self, wall_ns: int) -> int:
        """Return how long a duration by the clock is on the timeline."""
        return int(wall_ns * self._speed)

    def wait_until(self, at_ns: int, stop: threading.Event) -> None:
        """Sleep until a point of the timeline, no longer than until ``stop`` is set."""
        left_ns = at_ns / self._speed - (self._clock.monotonic_ns() - self._start_ns)
        if left_ns > 0:
            self._clock.wait(left_ns / 1e9, stop)
