"""A live source made of blocks given beforehand, and a clock that passes while it is waited."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from producers.columns import PacketColumns
from producers.names.told import NOTHING_TOLD
from producers.probe.config import ProbeSettings
from producers.probe.source import Block, Reading
from tests.producers.fakes import ManualClock


class FakeSource:
    """Gives one block at each time of a plan, and nothing between them."""

    def __init__(
        self, clock: ManualClock, plan: Sequence[tuple[float, PacketColumns]], name: str = "eth0"
    ) -> None:
        self.name, self.at_end = name, False
        self.ticks = self.starts = 0
        self.stopped = self.closed = False
        self.dropped = 0
        self.reloaded: list[ProbeSettings] = []
        self._clock, self._plan = clock, list(plan)
        self._seen = 0

    def start(self, reading: Reading) -> None:
        self.reading = reading
        self.starts += 1

    def reload(self, settings: ProbeSettings) -> None:
        self.reloaded.append(settings)

    def files(self) -> Sequence[int]:
        return ()

    def read(self) -> Block | None:
        if not self._plan or self._clock.passed_ns < self._plan[0][0] * 1e9:
            self.at_end = not self._plan
            return None
        _, columns = self._plan.pop(0)
        self._seen += columns.packets
        return Block(self.name, columns, NOTHING_TOLD)

    def tick(self) -> None:
        self.ticks += 1

    def stop(self) -> None:
        self.stopped = True

    def frames(self) -> Counter[str]:
        return Counter(read=self._seen + self.dropped, kernel_dropped=self.dropped)

    def events(self) -> Counter[str]:
        return Counter(frames_seen=self._seen)

    def gauges(self) -> dict[str, float]:
        return {f"up_{self.name}": 1.0}

    def close(self) -> None:
        self.closed = True


class LiveManualClock(ManualClock):
    """A manual clock that waits for sources, which never wake it."""

    stepped_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.stepped_ns

    def wait_for(self, files: Sequence[int], seconds: float, stop: threading.Event) -> None:
        self.wait(max(seconds, 1e-6), stop)
