"""Lag in seconds: of the partition that is furthest behind, among those where messages wait."""

from __future__ import annotations

from streams.lag import Lag

A, B = ("packets", 0), ("packets", 1)
S = 1_000_000_000


def test_nothing_waits_nothing_lags() -> None:
    assert Lag().seconds({}, 5 * S) == 0.0
    assert Lag().seconds({A: 0}, 5 * S) == 0.0


def test_the_oldest_of_those_that_wait_counts() -> None:
    lag = Lag()
    lag.took(A, 90 * S)
    lag.took(B, 60 * S)
    assert lag.seconds({A: 3, B: 0}, 100 * S) == 10.0
    assert lag.seconds({A: 3, B: 1}, 100 * S) == 40.0
    lag.took(B, 101 * S)
    assert lag.seconds({A: 0, B: 1}, 100 * S) == 0.0
    assert lag.taken == 3


def test_before_the_first_message_it_cannot_be_told() -> None:
    lag = Lag()
    assert lag.seconds({A: 3}, 100 * S) is None
    lag.took(A, 1)
    lag.clear()
    assert lag.seconds({A: 3}, 100 * S) is None
