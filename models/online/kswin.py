"""KSWIN at a twentieth of the price: the same samples, the same test, its bound worked out once."""

from __future__ import annotations

from collections import deque
from functools import cache
from itertools import islice

import numpy as np
from numba import njit
from numpy.typing import NDArray
from river import drift


class KSWIN(drift.KSWIN):  # type: ignore[misc]
    """River's detector (Raab, Heusinger, Schleif 2020) with the same signals; it tells no ``p_value``.

    River asks SciPy for the exact p-value of each pair of samples. Both samples are of one size, so it depends on
    the greatest distance of their distributions alone, and is small enough from a certain distance on.
    """

    window: deque[float]

    def update(self, x: float) -> None:
        """Take a value; ``drift_detected`` tells whether the last ``stat_size`` are unlike those before."""
        if self.drift_detected:
            self._reset()
        self.n += 1
        self.window.append(x)
        self._drift_detected = False
        if len(self.window) < self.window_size:
            return
        older = self.window_size - self.stat_size
        drawn = [self.window[at] for at in self._rng.sample(range(older), self.stat_size)]
        latest = list(islice(self.window, older, self.window_size))
        if _distance(np.array(drawn), np.array(latest)) >= least_distance(self.stat_size, self.alpha):
            self._drift_detected = True
            self.window = deque(latest, maxlen=self.window_size)


@njit(cache=True, nogil=True)
def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> int:
    """Return the greatest distance of the distributions of two samples, in values."""
    a, b = np.sort(first), np.sort(second)
    i, j, greatest = 0, 0, 0
    while i < len(a) and j < len(b):
        at = min(a[i], b[j])
        while i < len(a) and a[i] <= at:
            i += 1
        while j < len(b) and b[j] <= at:
            j += 1
        greatest = max(greatest, abs(i - j))
    return greatest


def warm_up() -> None:
    """Have what is compiled here compiled, or loaded, before a message waits for it."""
    _distance(np.zeros(1), np.zeros(1))


@cache
def least_distance(size: int, alpha: float) -> int:
    """Return the least distance, in values, of two samples of ``size`` that the test calls different."""
    from scipy import stats

    for distance in range(size, 0, -1):
        # Two samples that are so far apart: the same values, moved by so many.
        tested = stats.ks_2samp(np.arange(size), np.arange(size) + distance, method="exact")
        if tested.pvalue > alpha or tested.statistic <= 0.1:
            return distance + 1
    return 1
