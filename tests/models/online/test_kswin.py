"""KSWIN gives the signals of River's, value by value."""

from __future__ import annotations

import random

import pytest
from river import drift

from models.online.kswin import KSWIN


@pytest.mark.parametrize("alpha", [1e-4, 5e-3])
@pytest.mark.parametrize("seed", [1, 2])
def test_signals_are_those_of_river(alpha: float, seed: int) -> None:
    ours, rivers = KSWIN(alpha=alpha, seed=seed), drift.KSWIN(alpha=alpha, seed=seed)
    rng = random.Random(seed)
    signals = 0
    for at in range(1500):
        # Smooth values, and such as come often; the distribution moves every 400 values.
        value = rng.choice([rng.gauss(0, 1), float(rng.randrange(3))]) + at // 400
        ours.update(value)
        rivers.update(value)
        assert ours.drift_detected == rivers.drift_detected, at
        assert list(ours.window) == list(rivers.window)
        signals += ours.drift_detected
    assert signals > 0
