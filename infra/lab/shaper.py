"""A rate limiter in user space: a queue that drains at a rate that changes with time, and drops what does not fit."""

from __future__ import annotations

import random
from collections.abc import Sequence

Trace = Sequence[tuple[float, float]]
"""(seconds from the start, bits per second from then on), in order; the first begins at 0."""

LEVELS_BPS = (4e5, 8e5, 1.5e6, 3e6, 6e6, 9e6)
"""Rates that a trace changes between: each rung of the video ladder is the right one at some time."""
QUEUE_S = 0.25
"""Longest that a frame may wait; a frame that would wait longer is dropped."""


class Shaper:
    """One direction of one line. Times are seconds of one clock that never goes back."""

    def __init__(self, trace: Trace, start_s: float, queue_s: float = QUEUE_S) -> None:
        self._trace = [(start_s + at_s, rate) for at_s, rate in trace]
        self._queue_s = queue_s
        self._free_s = start_s
        self.dropped = 0

    def leaves_s(self, now_s: float, octets: int) -> float | None:
        """Return when a frame that comes now has passed, None where the queue is full."""
        begin_s = max(now_s, self._free_s)
        if begin_s - now_s > self._queue_s:
            self.dropped += 1
            return None
        while len(self._trace) > 1 and self._trace[1][0] <= begin_s:
            del self._trace[0]
        self._free_s = begin_s + octets * 8 / self._trace[0][1]
        return self._free_s


def made_trace(seed: str, seconds: float) -> list[tuple[float, float]]:
    """Return a trace drawn from a seed: a new level every 8 to 15 s."""
    dice = random.Random(seed)  # noqa: S311 - behaviour
    out, at_s = [], 0.0
    while at_s < max(seconds, 1.0):
        out.append((at_s, dice.choice(LEVELS_BPS) * dice.uniform(0.9, 1.1)))
        at_s += dice.uniform(8, 15)
    return out
