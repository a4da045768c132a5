"""How much a cascade escalates under load: a controller of the share that goes on. Knows no clock of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from producers.telemetry import LatencyHistogram

QUANTILE = 0.9
"""Of the answers that shall be within the target."""
PERIOD_S = 0.5
"""Time between two looks."""
_LESS, _MORE = 0.6, 0.05
"""What is left of the factor after a bad period, and what a good one adds to it: down fast, up with care."""
_CALM = 0.8
"""Of the target; between that and the target nothing changes, so that the factor does not swing."""
_LEAST = 0.01
"""Below it nothing escalates."""


class Pressure:
    """Turns latency and backlog into a factor, 0 to 1, of the share of flows that was tuned to escalate.

    Additive increase, multiplicative decrease, as TCP does it (Chiu, Jain, 1989).
    """

    def __init__(self, target_ms: float, max_lag_messages: int) -> None:
        """Aim at ``target_ms``; 0: leave the factor at 1."""
        self.factor = 1.0
        self.latency_ms: float | None = None
        """``QUANTILE`` of the last period's answers."""
        self._target_ns = target_ms * 1e6
        self._max_lag = max_lag_messages
        self._seen = LatencyHistogram()
        self._next_s: float | None = None

    def on_answers(self, latencies_ns: NDArray[np.int64]) -> None:
        """Take note of answers: from the sending of their packets until they left."""
        if self._target_ns:
            self._seen.record_many_ns(latencies_ns)

    def look(self, now_s: float, lag_messages: int) -> bool:
        """Return whether the factor has changed; does nothing before a period is over.

        Args:
            now_s: a clock that never goes back, in seconds.
            lag_messages: waiting on the bus.
        """
        if not self._target_ns:
            return False
        if self._next_s is None:
            self._next_s = now_s + PERIOD_S
        if now_s < self._next_s:
            return False
        self._next_s = now_s + PERIOD_S
        quantile_ns = self._seen.quantile_ns(QUANTILE)
        self._seen.clear()
        self.latency_ms = None if quantile_ns is None else quantile_ns / 1e6
        before = self.factor
        if lag_messages > self._max_lag or (quantile_ns is not None and quantile_ns > self._target_ns):
            self.factor = self.factor * _LESS if self.factor * _LESS >= _LEAST else 0.0
        elif quantile_ns is None or quantile_ns < _CALM * self._target_ns:
            self.factor = min(1.0, self.factor + _MORE)
        return self.factor != before
