"""The cascade without a bus: each flow gets one final answer, by the best tier that could give one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flow.card import Unknown
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.flow.server import CascadeServer, Said
from models.flow.state import load, save
from models.flow.table import NOTHING, UNKNOWN
from tests.models.flow.scripted import (
    NAMES,
    SECOND,
    SURE,
    UNSURE,
    Clock,
    arrived,
    batch,
    cascade,
    tier_card,
)

Final = tuple[int, int, int, int]
"""Flow, class, tier, depth."""


def server(made: Cascade | None = None, clock: Clock | None = None, **more: Any) -> CascadeServer:
    return CascadeServer(CascadeSettings(**more), made or cascade(), clock or Clock())


def finals(said: list[Said], final: bool = True) -> list[Final]:
    return sorted(
        (int(r["flow_id"]), int(r["class"]), int(r["tier"]), int(r["depth"]))
        for s in said
        if s.final == final
        for r in s.rows
    )


def provisional(said: list[Said]) -> list[Final]:
    return finals(said, final=False)


def test_a_sure_flow_is_answered_on_its_first_packet_and_never_again() -> None:
    one = server()
    said = one.take(arrived(batch((5, 1, 0.0), fast=(1, SURE))))
    assert finals(said) == [(5, 1, 0, 1)] and provisional(said) == []
    assert one.take(arrived(batch((5, 3, 0.1)))) == []
    assert one.take(arrived(batch((5, 2, 0.2), reason=3))) == []
    assert one.waiting == 0 and one.counts["final"] == 1


def test_an_unsure_flow_waits_for_the_slow_tier() -> None:
    one = server()
    said = one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    assert finals(said) == [] and provisional(said) == [(5, 1, 0, 1)] and one.waiting == 1
    assert one.take(arrived(batch((5, 2, 0.1)))) == []
    said = one.take(arrived(batch((5, 3, 0.2), slow=(2, UNSURE))))
    assert finals(said) == [(5, 2, 1, 3)] and one.waiting == 0


def test_all_rows_of_a_flow_may_come_in_one_group() -> None:
    one = server()
    rows = batch((1, 1, 0.0), (1, 3, 0.1), (2, 1, 0.0), (2, 2, 0.1), fast=(1, UNSURE))
    said = one.take(arrived(rows, batch((2, 2, 0.2), reason=1)))
    assert finals(said) == [(1, 2, 1, 3), (2, 1, 0, 1)]
    assert one.counts["answered_at_end"] == 1


def test_provisional_answers_can_be_left_out() -> None:
    one = server(provisional=False)
    assert one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE)))) == []


def test_a_flow_that_ends_gets_the_best_answer_so_far() -> None:
    one = server()
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    (said,) = one.take(arrived(batch((5, 2, 0.4), reason=3)))
    assert finals([said]) == [(5, 1, 0, 1)] and not said.at_once
    assert said.rows["flow_end_reason"].tolist() == [3]


def test_waits_are_over_by_the_event_time_of_their_own_probe() -> None:
    one = server(wait_s=2.0)
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    assert one.take(arrived(batch((6, 1, 9.0), probe="another"))) != []
    assert finals(one.take(arrived(batch((7, 1, 2.0))))) == [(7, 0, 0, 1)]
    assert finals(one.take(arrived(batch((8, 1, 2.1))))) == [(5, 1, 0, 1), (8, 0, 0, 1)]
    assert one.counts["answered_at_timeout"] == 1


def test_waits_are_over_by_the_clock_where_a_probe_falls_silent() -> None:
    clock = Clock()
    one = server(clock=clock, wait_s=2.0, silence_s=3.0)
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    clock.now_ns = 5 * SECOND
    assert one.due() == []
    clock.now_ns += 1
    assert finals(one.due()) == [(5, 1, 0, 1)] and one.due() == []


def test_a_row_at_the_very_end_of_the_wait_is_in_time() -> None:
    one = server(wait_s=2.0)
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    assert finals(one.take(arrived(batch((5, 3, 7.0))))) == [(5, 2, 1, 3)]


def test_repeated_rows_change_nothing() -> None:
    one = server()
    first, deep = batch((5, 1, 0.0), (5, 1, 0.0), fast=(1, UNSURE)), batch((5, 3, 0.1), (5, 3, 0.1))
    assert provisional(one.take(arrived(first, first))) == [(5, 1, 0, 1)]
    assert finals(one.take(arrived(deep, deep))) == [(5, 2, 1, 3)]
    assert one.take(arrived(first, deep)) == []
    assert one.counts["flows"] == 1


def test_a_tier_that_raises_leaves_the_answer_to_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    one = server()
    said = one.take(arrived(batch((5, 1, 0.0), (6, 1, 0.0), fast=(9, SURE))))
    assert said == [] or provisional(said) == []
    assert one.counts["failed_fast"] == 2 and one.waiting == 2
    assert finals(one.take(arrived(batch((5, 3, 0.1))))) == [(5, 2, 1, 3)]
    assert finals(one.take(arrived(batch((6, 1, 0.1), reason=1)))) == [(6, NOTHING, NOTHING, 1)]
    assert one.counts["without_answer"] == 1
    one.take(arrived(batch((7, 1, 0.0), fast=(9, SURE))))
    assert len([r for r in caplog.records if "tier fast does not answer" in r.getMessage()]) == 1


def test_a_slow_tier_that_raises_leaves_the_fast_ones_answer() -> None:
    one = server()
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    assert finals(one.take(arrived(batch((5, 3, 0.1), slow=(9, SURE))))) == [(5, 1, 0, 1)]
    assert one.counts["failed_slow"] == 1


def test_a_tier_that_could_not_be_loaded_is_passed_over() -> None:
    assert finals(server(cascade(missing=("slow",))).take(arrived(batch((5, 1, 0.0))))) == [(5, 0, 0, 1)]
    one = server(cascade(missing=("fast",)))
    assert one.take(arrived(batch((5, 1, 0.0)))) == [] or one.waiting == 1
    assert finals(one.take(arrived(batch((5, 3, 0.0))))) == [(5, 2, 1, 3)]


def test_tiers_on_the_same_rows_follow_at_once() -> None:
    made = cascade(tier_card("fast", 1), tier_card("slow", 1))
    one = server(made)
    said = one.take(arrived(batch((5, 1, 0.0), (6, 1, 0.0), fast=(1, UNSURE))))
    assert finals(said) == [(5, 2, 1, 1), (6, 2, 1, 1)] and provisional(said) == []
    assert finals(one.take(arrived(batch((7, 1, 0.0), fast=(1, UNSURE), slow=(9, SURE))))) == [(7, 1, 0, 1)]


def test_rows_that_lack_a_tiers_columns_are_left_to_the_others(caplog: pytest.LogCaptureFixture) -> None:
    one = server()
    said = one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE), names=NAMES[:2])))
    assert one.waiting == 1
    said = one.take(arrived(batch((5, 3, 0.1), names=NAMES[:2])))
    assert finals(said) == [(5, 1, 0, 1)]
    assert "has no column slow_class and 1 more" in caplog.text


def test_where_no_more_may_wait_the_fast_answer_is_final() -> None:
    one = server(max_waiting_flows=2)
    said = one.take(arrived(batch(*((flow, 1, 0.0) for flow in range(5)), fast=(1, UNSURE))))
    assert len(finals(said)) == 3 and one.waiting == 2
    assert one.counts["answered_for_lack_of_room"] == 3


def test_a_flow_that_waits_is_answered_before_it_is_forgotten() -> None:
    one = server(max_waiting_flows=16, max_flows=16, max_batch=4)
    said = one.take(arrived(batch((99, 1, 0.0), fast=(1, UNSURE))))
    for flow in range(16):
        said += one.take(arrived(batch((flow, 1, 0.0))))
    assert finals(said)[-1] == (99, 1, 0, 1) and one.counts["answered_at_forgotten"] == 1
    assert len(finals(said)) == 17


def test_flows_too_short_for_the_first_tier_are_answered_at_their_end() -> None:
    made = cascade(tier_card("fast", 2), tier_card("slow", 3))
    one = server(made)
    assert one.take(arrived(batch((5, 1, 0.0)))) == []
    assert finals(one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE), reason=1)))) == [(5, 1, 0, 1)]
    assert one.take(arrived(batch((5, 1, 0.0), reason=1))) == []


@pytest.mark.parametrize("deep_first", [False, True])
def test_tiers_on_topics_of_their_own_meet_whatever_comes_first(deep_first: bool) -> None:
    made = cascade(tier_card("fast", 1), tier_card("slow", 3, "deep"))
    one = server(made)
    first = batch((5, 1, 0.0), (6, 1, 0.0), fast=(1, UNSURE))
    deep = batch((5, 3, 0.1), (6, 3, 0.1), representation="deep", names=NAMES[2:])
    groups = [arrived(deep), arrived(first)] if deep_first else [arrived(first), arrived(deep)]
    said = one.take(groups[0]) + one.take(groups[1])
    assert finals(said) == [(5, 2, 1, 3), (6, 2, 1, 3)]
    assert one._ahead.rows == 0


def test_rows_ahead_of_flows_that_never_come_are_forgotten() -> None:
    clock = Clock()
    one = server(cascade(tier_card("fast", 1), tier_card("slow", 3, "deep")), clock)
    one.take(arrived(batch((5, 3, 0.1), representation="deep", names=NAMES[2:])))
    clock.now_ns = 16 * SECOND
    assert one.due() == [] and one._ahead.rows == 0
    assert one.counts["rows_without_flow"] == 1


def test_what_is_unlike_all_that_was_learned_is_unknown() -> None:
    strange = Unknown(centre=(0.0, 0.0), scale=(1.0, 1.0), limit=0.1)
    made = cascade(unknown=(strange, Unknown(confidence_floor=0.6)))
    (said,) = server(made).take(arrived(batch((5, 1, 0.0), fast=(2, SURE))))
    assert said.rows["unknown"].tolist() == [True] and said.rows["ood"][0] > 0.1
    one = server(made, unknown=False)
    (said,) = one.take(arrived(batch((5, 1, 0.0), fast=(2, SURE))))
    assert said.rows["unknown"].tolist() == [False]
    one = server(made)
    one.take(arrived(batch((5, 1, 0.0), fast=(0, UNSURE))))
    (said,) = one.take(arrived(batch((5, 3, 0.0), slow=(0, UNSURE))))
    assert said.rows["unknown"].tolist() == [True]
    table = one.tables[0]
    assert table.said(int(table.find(np.array([5], np.uint64))[0])) == [0, 0, UNKNOWN]


def test_a_change_answers_who_waits_and_refuses_what_does_not_fit() -> None:
    one = server()
    one.take(arrived(batch((5, 1, 0.0), fast=(1, UNSURE))))
    assert one.lacks(cascade(version="2")) == ""
    other = cascade(tier_card("fast", 1), tier_card("other", 3), version="2")
    assert "has no column other_class" in one.lacks(other)
    assert finals(one.change(cascade(version="2"))) == [(5, 1, 0, 1)]
    assert finals(one.take(arrived(batch((6, 1, 0.0))))) == [(6, 0, 0, 1)]


def test_another_worker_goes_on_with_the_flows_that_wait() -> None:
    one = server(wait_s=2.0)
    one.take(arrived(batch((4, 1, 0.0), probe="another"), batch((5, 1, 0.0), (6, 1, 0.5), fast=(1, UNSURE))))
    kept = load(save(one.waiting_flows(0, {"features.early": 7})))
    assert kept.offsets == {"features.early": 7}
    two = server(wait_s=2.0)
    assert two.restore(0, kept) == [] and two.waiting == 2
    assert finals(two.take(arrived(batch((5, 3, 0.6))))) == [(5, 2, 1, 3)]
    assert finals(two.take(arrived(batch((7, 1, 2.6))))) == [(6, 1, 0, 1), (7, 0, 0, 1)]
    three = server(cascade(version="2"))
    assert finals(three.restore(0, load(save(kept)))) == [(5, 1, 0, 1), (6, 1, 0, 1)]
    assert three.take(arrived(batch((5, 3, 0.6)))) == []


STEP = st.tuples(
    st.integers(0, 5),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 3]),
    st.integers(0, 1),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(STEP, max_size=6), max_size=8), st.sampled_from([1, 3, 100]), st.booleans(), st.data()
)
def test_every_flow_met_gets_exactly_one_final_answer(
    groups: list[list[tuple[int, int, bool, int, int]]], room: int, two_topics: bool, data: st.DataObject
) -> None:
    """Whatever rows come in whatever order, however often."""
    slow = tier_card("slow", 3, "deep" if two_topics else "early")
    clock = Clock()
    one = server(cascade(tier_card("fast", 1), slow), clock, max_waiting_flows=room)
    said: list[Said] = []
    met: set[int] = set()
    for group in groups:
        batches = []
        for flow, depth, sure, reason, partition in group:
            deep = two_topics and depth == 3
            fast = (1, SURE if sure else UNSURE)
            flow += 100 * partition
            row = batch(
                (flow, depth, 0.1), fast=fast, reason=reason, representation="deep" if deep else "early"
            )
            batches.append(arrived(row, partition=partition)[0])
            if depth == 1 and reason == 0:
                met.add(flow)
        said += one.take(batches)
        clock.now_ns += data.draw(st.sampled_from([0, 0, 16 * SECOND]))
        said += one.due()
    clock.now_ns += 100 * SECOND
    said += one.due()
    counted = Counter(int(flow) for s in said if s.final for flow in s.rows["flow_id"])
    assert counted == Counter(met)
    assert one.waiting == 0
