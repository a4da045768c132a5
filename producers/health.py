"""Whether a process gets on: a loop that turns, and a backlog that moves. Being alive alone proves neither."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Health:
    """Told by the process's loop how it stands; asked by the health check, from any thread.

    Args:
        stall_s: seconds without progress after which something is wrong.
        clock: gives seconds that never go back.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._ticked_s = self._moved_s = clock()
        self._begun = False
        self._done = self._waiting = 0

    def tick(self, waiting: int, done: int) -> None:
        """Say that the loop has turned: so many messages wait, and so many have been dealt with since the start."""
        now_s = self._clock()
        self._ticked_s = now_s
        if waiting == 0 or done != self._done or not self._begun:
            self._moved_s = now_s
        self._begun, self._waiting, self._done = True, waiting, done

    def problem(self) -> str:
        """Return in one line why the process does not get on; empty while it does."""
        now_s = self._clock()
        still_s = now_s - self._ticked_s
        if not self._begun:
            return f"nothing has begun yet, {still_s:.0f} s after the start"
        if still_s > self._stall_s:
            return f"the loop has not turned for {still_s:.0f} s"
        if now_s - self._moved_s > self._stall_s:
            return (
                f"{self._waiting:,} messages wait and none was dealt with for {now_s - self._moved_s:.0f} s"
            )
        return ""


class Backlog:
    """How long the oldest message without an answer has waited, from counts alone."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()

    def age_ns(self, sent: int, answered: int, now_ns: int) -> int:
        """Return the age of the oldest message without answer, 0 without any; to be asked now and then.

        It is found to within the time between two calls. ``sent`` and ``answered`` count from the start, and
        answers are taken to come in order.
        """
        while self._marks and self._marks[0][0] <= answered:
            self._marks.popleft()
        if sent > answered and (not self._marks or self._marks[-1][0] < sent):
            self._marks.append((sent, now_ns))
        return max(0, now_ns - self._marks[0][1]) if self._marks else 0
