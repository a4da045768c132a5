"""Running central moments up to the fourth (Pebay, Sandia report SAND2008-6212, 2008), for features."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.compiled import compiled

FIELDS = (("count", "u4"), ("mean", "f8"), ("m2", "f8"), ("m3", "f8"), ("m4", "f8"))
"""State of the moments: the count, the mean, and the sums of the powers of the deviations from it."""
_NOTHING = 1e-18
"""Below this share of the mean's square a variance is rounding."""


@compiled(error_model="numpy")
def add_moment(state: Any, value: float) -> None:
    """Fold a value in."""
    before = float(state.count)
    state.count += 1
    n = before + 1.0
    delta = value - state.mean
    step = delta / n
    square = step * step
    term = delta * step * before
    state.mean += step
    state.m4 += term * square * (n * n - 3.0 * n + 3.0) + 6.0 * square * state.m2 - 4.0 * step * state.m3
    state.m3 += term * step * (n - 2.0) - 3.0 * step * state.m2
    state.m2 += term


@compiled(error_model="numpy")
def skewness_of(state: Any) -> float:
    """Return the skewness, 0 where all values are equal."""
    n = float(state.count)
    if n < 2.0 or state.m2 / n <= _NOTHING * state.mean * state.mean or state.m2 <= 0.0:
        return 0.0
    variance = state.m2 / n
    return state.m3 / n / (variance * np.sqrt(variance))


@compiled(error_model="numpy")
def kurtosis_of(state: Any) -> float:
    """Return the excess kurtosis, 0 where all values are equal."""
    n = float(state.count)
    if n < 2.0 or state.m2 / n <= _NOTHING * state.mean * state.mean or state.m2 <= 0.0:
        return 0.0
    variance = state.m2 / n
    return state.m4 / n / (variance * variance) - 3.0
