"""The core against a reference in plain Python, on random packets however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.features import ROW_COLUMNS
from streams.config import StreamsSettings
from streams.plan import Plan
from tests.streams.made import ACK, FIN, FLOWS, RST, START_NS, SYN, Made, Row, Run, brisk, cut, run
from tests.streams.reference import Expected, Reference

STEP_NS = 50_000_000
# Steps of time in STEP_NS. Lateness is 4, the linger 10, a short window 5, a window 20, the idle timeout 40 of
# them, so that sums fall on the deadlines, just before and just after.
STEPS = (0, 0, 0, 1, 1, 1, 2, 3, 5, 10, 11, 20, 39, 40, 41, 45, 90, -1, -1, -2, -4, -5, -9, -30, -41, -60)
FLAGS = (ACK, ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK, FIN | ACK, RST)
AMOUNTS = (0, 28, 40, 100, 1500, 65535, 65536, 2**32 - 1)


@st.composite
def streams(draw: st.DrawFn, steps: tuple[int, ...] = STEPS, most: int = 80) -> list[Made]:
    """Draw packets of a few flows."""
    time_ns, packets = START_NS, []
    whole = draw(st.booleans())
    if whole:  # times on the windows' edges
        time_ns -= time_ns % 1_000_000_000
    flows = draw(st.integers(1, len(FLOWS)))
    parts = st.tuples(
        st.sampled_from(steps),
        st.integers(0, 2 if not whole else 0),
        st.integers(0, flows - 1),
        st.integers(0, 1),
        st.sampled_from(FLAGS),
        st.sampled_from(AMOUNTS),
        st.integers(0, 255),
    )
    for step, odd_ns, flow, direction, flags, octets, small in draw(st.lists(parts, max_size=most)):
        time_ns = max(0, time_ns + step * STEP_NS + odd_ns)
        flags = flags if FLOWS[flow].protocol == 6 else 0
        packets.append(Made(time_ns, FLOWS[flow], direction, octets, flags, 40, small * 257, small))
    return packets


def ordered(rows: list[Expected]) -> list[Expected]:
    return sorted(rows, key=lambda r: (r.representation, *map(str, r.identity.values()), r.features))


def expected_of(plan: Plan, row: Row) -> Expected:
    return Expected(row.representation, {c.name: row[c.name] for c in ROW_COLUMNS}, row.values)


def compare(plan: Plan, got: list[Row], want: list[Expected]) -> None:
    """Compare rows: identity exactly, features as float32 with room for the rounding of running sums."""
    names = {r.name: r.names for r in plan.representations}
    mine, theirs = ordered([expected_of(plan, row) for row in got]), ordered(want)
    assert [(r.representation, r.identity) for r in mine] == [(r.representation, r.identity) for r in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for name, value, wanted in zip(names[one.representation], one.features, other.features, strict=True):
            if name == "gap_std_us":
                room = 1e-5 * other.features[names[one.representation].index("gap_max_us")]
                assert value == pytest.approx(wanted, rel=1e-4, abs=room), name
            elif name == "octets_std":
                room = 1e-6 * other.features[names[one.representation].index("octets_mean")]
                assert value == pytest.approx(wanted, rel=1e-5, abs=room), name
            elif name.startswith("gap_mean"):
                assert value == pytest.approx(wanted, rel=1e-5), name
            elif "octets" in name and not name.startswith(("total", "mean", "octets_per_s", "octets_mean")):
                assert value == np.float32(min(wanted, 65535)), name
            else:
                assert value == np.float32(wanted), name


def reference(settings_: StreamsSettings, packets: list[Made]) -> Reference:
    made = Reference(settings_)
    made.feed(packets)
    made.end()
    return made


@settings(max_examples=300, deadline=None)
@given(packets=streams())
def test_rows_are_those_of_the_reference(plan: Plan, packets: list[Made]) -> None:
    want = reference(plan.settings, packets)
    got = run(plan, packets)
    compare(plan, got.rows, want.rows)
    assert {name: got.counts.get(name, 0) for name in want.counts} == want.counts


@settings(max_examples=60, deadline=None)
@given(
    packets=streams(most=40),
    idle_s=st.sampled_from([0.1, 0.5, 2.0]),
    active_s=st.sampled_from([0.1, 0.5, 3.0]),
    linger_s=st.sampled_from([0.0, 0.1, 1.0]),
    lateness_s=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_rows_are_those_of_the_reference_for_any_timeouts(
    packets: list[Made], idle_s: float, active_s: float, linger_s: float, lateness_s: float
) -> None:
    chosen = brisk(
        idle_timeout_s=idle_s, active_timeout_s=active_s, tcp_linger_s=linger_s, lateness_s=lateness_s
    )
    plan = Plan(chosen)
    compare(plan, run(plan, packets).rows, reference(chosen, packets).rows)


@settings(max_examples=150, deadline=None)
@given(packets=streams(), size=st.sampled_from([1, 7]), between=st.data())
def test_rows_do_not_depend_on_cuts_sweeps_and_handovers(
    plan: Plan, packets: list[Made], size: int, between: st.DataObject
) -> None:
    whole = run(plan, packets)
    other = Run(plan)
    for part in cut(packets, size):
        other.feed(part)
        for act in between.draw(st.sets(st.sampled_from(["sweep", "reload"]))):
            {"sweep": other.sweep, "reload": other.reload}[act]()
    other.end()
    assert sorted(other.rows) == sorted(whole.rows)
    counts = [{k: v for k, v in r.counts.items() if k != "batches"} for r in (other, whole)]
    assert counts[0] == counts[1]


@settings(max_examples=60, deadline=None)
@given(packets=streams(most=60), data=st.data())
def test_event_time_that_goes_on_by_itself_closes_what_the_reference_closes(
    plan: Plan, packets: list[Made], data: st.DataObject
) -> None:
    """Advance the watermark between batches, as a silent probe's tick does."""
    want, got = Reference(plan.settings), Run(plan)
    for part in cut(packets, 9):
        want.feed(part)
        got.feed(part)
        if data.draw(st.booleans()):
            flows = got.partition.probes["p"].flows
            watermark = flows.watermark_ns + data.draw(st.sampled_from([0, 1, 3, 41, 200])) * STEP_NS
            want.advance(watermark)
            got.take_rows("p", flows.advance(watermark))
    want.end()
    got.end()
    compare(plan, got.rows, want.rows)
