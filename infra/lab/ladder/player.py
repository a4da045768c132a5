"""A player without a network: its buffer, what is on the screen, and which rung it takes next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from infra.lab.ladder.rungs import LADDER, SEGMENT_S

WINDOW_S = 1.0
START_S = 2 * SEGMENT_S
"""Buffer at which the picture starts, and starts again after a stall."""
LONGEST_BUFFER_S = 14.0
_LOW_S, _HIGH_S = 4.0, 9.0
_SAMPLES = 3


@dataclass
class Window:
    """What a player did in one window; times in seconds of it."""

    played_s: dict[int, float] = field(default_factory=dict)
    """Rung to how long it was shown."""
    stalled_s: float = 0.0
    """How long the picture stood, after it had started once."""
    buffer_s: float = 0.0
    """Buffer at the window's end."""

    @property
    def rung(self) -> int | None:
        """Return the rung shown longest, None where nothing was shown."""
        return max(self.played_s, key=lambda rung: self.played_s[rung]) if self.played_s else None


class Player:
    """Adaptive by throughput and buffer, as players of the field are: harmonic mean of the last downloads, a share of
    it that grows with the buffer, one rung up at a time and any number down.
    """

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self._window, self._into_s = Window(), 0.0
        self._buffer: deque[list[float]] = deque()
        self._playing = self._started = False
        self._rates_bps: deque[float] = deque(maxlen=_SAMPLES)
        self._rung = 0

    @property
    def buffer_s(self) -> float:
        """Return how much video waits to be shown, in seconds."""
        return sum(left_s for _, left_s in self._buffer)

    @property
    def is_full(self) -> bool:
        """Return whether the next segment has to wait."""
        return self.buffer_s > LONGEST_BUFFER_S - SEGMENT_S

    def arrived(self, rung: int, octets: int, took_s: float) -> None:
        """Take a segment in that took so long to come."""
        self._buffer.append([rung, SEGMENT_S])
        self._rates_bps.append(octets * 8 / max(took_s, 1e-3))
        self._playing = self._playing or self.buffer_s >= START_S
        self._started = self._started or self._playing

    def next_rung(self) -> int:
        """Return the rung of the next segment."""
        if not self._rates_bps:
            return self._rung
        mean_bps = len(self._rates_bps) / sum(1 / rate for rate in self._rates_bps)
        share = 0.55 if self.buffer_s < _LOW_S else 0.8 if self.buffer_s < _HIGH_S else 0.95
        fits = [i for i, rung in enumerate(LADDER) if rung.rate_bps <= share * mean_bps]
        self._rung = min(fits[-1] if fits else 0, self._rung + 1)
        return self._rung

    def advance(self, seconds: float) -> None:
        """Let time pass: show, stall, and close windows."""
        while seconds > 1e-9:
            step_s = min(seconds, WINDOW_S - self._into_s)
            if self._playing:
                step_s = min(step_s, self._buffer[0][1])
            self._pass(step_s)
            seconds -= step_s
            if self._into_s >= WINDOW_S - 1e-9:
                self._window.buffer_s = self.buffer_s
                self.windows.append(self._window)
                self._window, self._into_s = Window(), 0.0

    def _pass(self, step_s: float) -> None:
        self._into_s += step_s
        if not self._playing:
            self._window.stalled_s += step_s if self._started else 0.0
            return
        rung = int(self._buffer[0][0])
        self._window.played_s[rung] = self._window.played_s.get(rung, 0.0) + step_s
        self._buffer[0][1] -= step_s
        if self._buffer[0][1] <= 1e-9:
            self._buffer.popleft()
            self._playing = bool(self._buffer)
