"""The estimate of two clocks' difference: sound whatever the way takes, and the narrower the more is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from producers.clock_offset import DRIFT, MAX_WAIT_NS, ClockOffset, Offset

MS = 1_000_000
NOW_NS = 1_700_000_000_000_000_000


@given(
    offset_ns=st.integers(-(10**12), 10**12),
    ways=st.lists(
        st.tuples(st.integers(0, 50 * MS), st.integers(0, 50 * MS), st.integers(0, 10**10)),
        min_size=1,
        max_size=20,
    ),
)
def test_the_true_difference_is_never_outside(offset_ns: int, ways: list[tuple[int, int, int]]) -> None:
    clock, now_ns = ClockOffset(), NOW_NS
    for there_ns, back_ns, pause_ns in ways:
        now_ns += pause_ns
        appended_ms = (now_ns + there_ns - offset_ns) // MS
        clock.sample(now_ns, now_ns + there_ns + back_ns, appended_ms)
        now_ns += there_ns + back_ns
    found = clock.estimate(now_ns)
    assert found is not None
    # A rounded nanosecond at either end.
    assert abs(found.offset_ns - offset_ns) <= found.error_ns + 2
    assert found.error_ns <= (min(a + b for a, b, _ in ways) + MS) // 2 + DRIFT * (now_ns - NOW_NS) + 2
    assert clock.steps == 0


def test_a_quick_answer_counts_for_more_and_fades_as_clocks_may_drift() -> None:
    clock = ClockOffset()
    assert clock.estimate(NOW_NS) is None
    clock.sample(NOW_NS, NOW_NS + 40 * MS, NOW_NS // MS + 20)
    assert clock.estimate(NOW_NS + 40 * MS) == Offset(-500_000, 20_500_000)
    clock.sample(NOW_NS + 100 * MS, NOW_NS + 101 * MS, NOW_NS // MS + 100)
    near = clock.estimate(NOW_NS + 101 * MS)
    assert near == Offset(0, MS)
    clock.sample(NOW_NS + 200 * MS, NOW_NS + 290 * MS, NOW_NS // MS + 230)
    assert clock.estimate(NOW_NS + 290 * MS) == Offset(0, MS + round(DRIFT * 189 * MS))
    assert clock.estimate(NOW_NS + 1290 * MS) == Offset(0, MS + round(DRIFT * 1189 * MS))


def test_a_clock_that_was_set_is_noticed_and_believed() -> None:
    clock = ClockOffset()
    clock.sample(NOW_NS, NOW_NS + MS, NOW_NS // MS)
    clock.sample(NOW_NS + 7_000 * MS, NOW_NS + 7_001 * MS, NOW_NS // MS + 1_000)
    assert clock.steps == 1
    found = clock.estimate(NOW_NS + 7_001 * MS)
    assert found is not None and found.offset_ns == 6_000 * MS


def test_what_waited_long_says_nothing() -> None:
    clock = ClockOffset()
    clock.sample(NOW_NS, NOW_NS + MAX_WAIT_NS + 1, NOW_NS // MS)
    clock.sample(NOW_NS, NOW_NS - 1, NOW_NS // MS)
    assert clock.estimate(NOW_NS) is None
