"""How far a worker is behind: from the times of the messages it took, in seconds."""

from __future__ import annotations

from collections.abc import Mapping

Place = tuple[str, int]
"""Topic and partition."""


class Lag:
    """Remembers the time of the last message taken from each partition."""

    def __init__(self) -> None:
        self._taken_ns: dict[Place, int] = {}
        self.taken = 0
        """Messages taken since the start."""

    def took(self, place: Place, time_ns: int) -> None:
        """Note a message's time, as the bus has it, in ns since the epoch."""
        self._taken_ns[place] = time_ns
        self.taken += 1

    def seconds(self, waiting: Mapping[Place, int], now_ns: int) -> float | None:
        """Return how old the last message taken is, in the partition where that is longest ago.

        Only partitions where messages wait count: 0 without any. None where messages wait and none was taken yet.
        """
        behind = [place for place, messages in waiting.items() if messages]
        known = [now_ns - self._taken_ns[place] for place in behind if place in self._taken_ns]
        if not known:
            return None if behind else 0.0
        return max(0, *known) / 1e9

    def clear(self) -> None:
        """Forget the partitions: others may be assigned."""
        self._taken_ns.clear()
