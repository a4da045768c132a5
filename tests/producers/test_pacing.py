from __future__ import annotations

import threading

import numpy as np
import pytest

from producers.pacing import Pacer, Timeline, parse_speed
from schemas.errors import SettingsError
from tests.producers.fakes import ManualClock


def due(timeline: Timeline, *times: int) -> list[int]:
    return timeline.due_ns(np.array(times, dtype=np.int64)).tolist()


def test_the_timeline_follows_the_capture_across_blocks() -> None:
    timeline = Timeline(max_gap_ns=1000, start_ns=100)
    assert due(timeline, 100, 110, 150) == [0, 10, 50]
    assert due(timeline) == []
    assert due(timeline, 170, 300) == [70, 200]


def test_a_second_probe_starts_where_it_did() -> None:
    assert due(Timeline(max_gap_ns=1000, start_ns=100), 130, 140) == [30, 40]


def test_a_long_silence_is_cut_short() -> None:
    assert due(Timeline(max_gap_ns=50, start_ns=0), 0, 10, 10_000, 10_005) == [0, 10, 60, 65]


def test_a_packet_out_of_order_is_due_with_the_one_before_it_and_shifts_nothing() -> None:
    assert due(Timeline(max_gap_ns=1000, start_ns=0), 0, 10, 4, 12, 30) == [0, 10, 10, 12, 30]


def test_one_wild_timestamp_costs_at_most_the_longest_gap() -> None:
    assert due(Timeline(max_gap_ns=50, start_ns=0), 0, 10, 10**18, 20, 60, 110) == [0, 10, 60, 60, 60, 100]


@pytest.mark.parametrize(("speed", "passed"), [(1.0, 1_000_000), (4.0, 250_000), (0.5, 2_000_000)])
def test_the_pacer_sleeps_by_the_speed(speed: float, passed: int) -> None:
    clock = ManualClock()
    pacer = Pacer(clock, speed)
    pacer.wait_until(1_000_000, threading.Event())
    assert clock.passed_ns == passed
    assert pacer.now_ns() == 1_000_000
    assert pacer.behind_ns(1_000_000) == 0
    pacer.wait_until(900_000, threading.Event())
    assert clock.passed_ns == passed, "what is due already is not waited for"
    assert pacer.behind_ns(0) == passed


@pytest.mark.parametrize(
    ("text", "speed"), [("max", None), ("MAX", None), ("1", 1.0), ("0.5", 0.5), ("20", 20)]
)
def test_speeds(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "fast", "", "inf", "nan"])
def test_bad_speeds_are_named(text: str) -> None:
    with pytest.raises(SettingsError, match="speed"):
        parse_speed(text)
