"""Health tests progress, not life."""

from __future__ import annotations

from producers.health import Backlog, Health


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_nothing_is_well_before_the_loop_has_turned() -> None:
    clock = Clock()
    health = Health(15, clock)
    clock.now_s += 3
    assert health.problem() == "nothing has begun yet, 3 s after the start"
    health.tick(0, 0)
    assert health.problem() == ""


def test_a_loop_that_stands_still_is_found_out() -> None:
    clock = Clock()
    health = Health(15, clock)
    health.tick(0, 0)
    clock.now_s += 15
    assert health.problem() == ""
    clock.now_s += 1
    assert health.problem() == "the loop has not turned for 16 s"
    health.tick(0, 0)
    assert health.problem() == ""


def test_a_loop_that_turns_without_moving_is_found_out_only_while_something_waits() -> None:
    clock = Clock()
    health = Health(15, clock)
    for waiting, done, problem in [
        (0, 5, ""),
        (7, 5, ""),
        (1200, 5, "1,200 messages wait and none was dealt with for 20 s"),
        (1200, 6, ""),
        (1200, 6, ""),
        (0, 6, ""),
        (3, 6, ""),
    ]:
        health.tick(waiting, done)
        assert health.problem() == problem
        clock.now_s += 10


def test_the_age_of_the_oldest_message_without_answer() -> None:
    backlog = Backlog()
    assert backlog.age_ns(0, 0, 1000) == 0
    assert backlog.age_ns(5, 0, 1100) == 0
    assert backlog.age_ns(9, 0, 1200) == 100
    assert backlog.age_ns(9, 4, 1300) == 200
    assert backlog.age_ns(9, 5, 1400) == 200
    assert backlog.age_ns(9, 9, 1500) == 0
    assert backlog.age_ns(10, 9, 1600) == 0
