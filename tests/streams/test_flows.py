"""Each rule of a flow's life, on a few packets by hand."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.features import FlowEndReason
from schemas.flow_key import flow_id_of, partition_of, probe_hash_of
from streams.constants import ROOM
from streams.plan import Plan
from streams.probe_flows import ProbeFlows
from tests.streams.made import (
    ACK,
    FIN,
    FLOWS,
    RST,
    SECOND,
    START_NS,
    SYN,
    UDP,
    Flow,
    Made,
    Row,
    Run,
    brisk,
    columns_of,
    flow_hash,
    named,
    run,
)

MS = SECOND // 1000
T = START_NS - START_NS % SECOND
OTHER = FLOWS[3]


def at(ms: int, direction: int = 0, flags: int = ACK, octets: int = 100, flow: Flow = FLOWS[0]) -> Made:
    return Made(T + ms * MS, flow, direction, octets, flags)


def tick(ms: int) -> Made:
    """A packet of another flow, which moves event time on."""
    return at(ms, flags=0, flow=OTHER)


def flows(rows: list[Row], flow: Flow = FLOWS[0]) -> list[Row]:
    return sorted(
        (r for r in rows if r.representation == "flow" and r["protocol"] == flow.protocol),
        key=lambda r: (r["start_ns"], r["end_ns"]),
    )


def reasons(rows: list[Row]) -> list[int]:
    return [r["flow_end_reason"] for r in flows(rows)]


def lengths(rows: list[Row]) -> list[int]:
    return [r["packets_fwd"] + r["packets_rev"] for r in flows(rows)]


def test_end_reasons_are_ipfix_numbers() -> None:
    assert {r.name: int(r) for r in FlowEndReason} == {
        "NONE": 0,
        "IDLE_TIMEOUT": 1,
        "ACTIVE_TIMEOUT": 2,
        "END_OF_FLOW": 3,
        "FORCED_END": 4,
        "LACK_OF_RESOURCES": 5,
    }
    assert FlowEndReason.LACK_OF_RESOURCES.text == "lack of resources"
    assert FlowEndReason.NONE.text == ""


def test_idle_timeout_is_over_strictly_after_it(plan: Plan) -> None:
    rows = run(plan, [at(0), at(2000), at(4001)]).rows
    assert lengths(rows) == [2, 1]
    assert reasons(rows) == [1, 4]


def test_idle_flow_ends_once_event_time_less_lateness_has_passed_it(plan: Plan) -> None:
    waiting = Run(plan)
    waiting.feed([at(0), tick(2200)])
    assert flows(waiting.rows) == []
    ended = flows(waiting.feed([tick(2201)]))
    assert [(r["flow_end_reason"], r["start_ns"], r["end_ns"]) for r in ended] == [(1, T, T)]


def test_active_timeout_begins_the_flow_anew(plan: Plan) -> None:
    rows = run(plan, [at(ms) for ms in range(0, 12001, 1000)]).rows
    assert lengths(rows) == [6, 6, 1]
    assert reasons(rows) == [2, 2, 4]
    assert [r["start_ns"] for r in flows(rows)] == [T, T + 6 * SECOND, T + 12 * SECOND]


@pytest.mark.parametrize("later", [[], [tick(6000)], [tick(9000)]])
def test_the_first_deadline_decides_however_late_the_question(plan: Plan, later: list[Made]) -> None:
    # Idle at 6.5 s, active at 5 s: the flow is over at 5 s even if nothing is asked before 9 s.
    rows = run(plan, [*(at(ms) for ms in (0, 1500, 3000, 4500)), *later, at(9500)]).rows
    assert reasons(rows) == [2, 4]
    rows = run(plan, [*(at(ms) for ms in (0, 1500, 2900)), *later, at(9500)]).rows
    assert reasons(rows) == [1, 4]


def test_of_two_deadlines_at_once_the_idle_timeout_is_told(plan: Plan) -> None:
    assert reasons(run(plan, [*(at(ms) for ms in (0, 1500, 3000)), at(9500)]).rows) == [1, 4]


@pytest.mark.parametrize(
    "ending",
    [
        [at(10, 0, FIN | ACK), at(20, 1, FIN | ACK)],
        [at(10, 1, FIN | ACK), at(20, 0, FIN | ACK)],
        [at(10, 0), at(20, 0, RST)],
        [at(10, 0), at(20, 1, RST | ACK)],
    ],
)
def test_fin_both_ways_or_rst_end_a_flow_after_the_linger(plan: Plan, ending: list[Made]) -> None:
    rows = run(plan, [at(0, 0, SYN), *ending, at(500, 1), at(1001, 0)]).rows
    assert lengths(rows) == [4, 1]
    assert reasons(rows) == [3, 4]


def test_fin_one_way_does_not_end_a_flow(plan: Plan) -> None:
    rows = run(plan, [at(0), at(10, 0, FIN | ACK), at(20, 0, FIN | ACK), at(1500, 1)]).rows
    assert lengths(rows) == [4]
    assert reasons(rows) == [4]


def test_a_syn_after_the_end_begins_a_new_flow_at_once(plan: Plan) -> None:
    rows = run(plan, [at(0), at(10, 0, RST), at(20, 0, SYN), at(30, 1, SYN | ACK), at(40)]).rows
    assert lengths(rows) == [2, 3]
    assert reasons(rows) == [3, 4]


@pytest.mark.parametrize("flags", [SYN | ACK, ACK, FIN | ACK])
def test_other_packets_after_the_end_belong_to_the_old_flow(plan: Plan, flags: int) -> None:
    assert lengths(run(plan, [at(0), at(10, 0, RST), at(20, 0, flags)]).rows) == [3]


def test_a_syn_within_an_open_flow_belongs_to_it(plan: Plan) -> None:
    assert lengths(run(plan, [at(0), at(10, 0, SYN), at(20, 0, SYN)]).rows) == [3]


def test_late_and_reordered_packets_are_counted(plan: Plan) -> None:
    done = run(plan, [at(0), at(500), at(400), at(301), at(300), at(299), at(250)])
    assert done.counts["packets_reordered"] == 5
    assert done.counts["packets_late"] == 2
    assert lengths(done.rows) == [7]
    assert [(r["start_ns"], r["end_ns"]) for r in flows(done.rows)] == [(T, T + 500 * MS)]


def test_a_flow_never_ends_before_it_starts(plan: Plan) -> None:
    (record,) = flows(run(plan, [at(500), at(400), at(350)]).rows)
    assert (record["start_ns"], record["end_ns"]) == (T + 500 * MS, T + 500 * MS)


def test_a_step_back_of_the_clock_ends_all_flows_by_force(plan: Plan) -> None:
    done = Run(plan)
    rows = done.feed([at(5000), tick(5000), at(2999), at(3100)])
    assert reasons(rows) == [4]
    assert flows(rows, OTHER)[0]["flow_end_reason"] == 4
    assert done.counts["clock_steps"] == 1
    assert done.partition.probes["p"].flows.watermark_ns == T + 3100 * MS
    done.end()
    assert lengths(done.rows) == [2, 1]
    # As far back as the idle timeout is late, not a step.
    assert run(plan, [at(5000), at(3000)]).counts["clock_steps"] == 0


def test_a_step_back_first_closes_what_was_due(plan: Plan) -> None:
    done = run(plan, [at(0), tick(9000), tick(0)])
    assert reasons(done.rows) == [1]


def test_early_rows_come_at_packet_1_and_at_the_depth_only(plan: Plan) -> None:
    rows = run(plan, [at(i, i % 2) for i in range(12)]).rows
    for name, depth in (("early", 3), ("deep", 10)):
        early = [r for r in rows if r.representation == name]
        assert [r["depth"] for r in early] == [1, depth]
        assert {r["flow_end_reason"] for r in early} == {0}
        assert [r["end_ns"] for r in early] == [T, T + (depth - 1) * MS]
    assert [r["packets_rev"] for r in rows if r.representation == "early"] == [0, 1]


@pytest.mark.parametrize("direction", [0, 1])
def test_the_source_is_the_sender_of_the_first_packet(plan: Plan, direction: int) -> None:
    flow = FLOWS[3]
    rows = run(plan, [at(0, direction, 0, 70, flow), at(1, 1 - direction, 0, 90, flow)]).rows
    # Of each representation one, but three of steps: at packet 1 and 2 and at the end.
    assert len(rows) == 9
    for r in rows:
        ends = [r["source_address"][:4], r["destination_address"][:4]]
        ports = [r["source_port"], r["destination_port"]]
        assert (ends if not direction else ends[::-1]) == [b"\n\0\0\1", b"\xc0\0\2\x35"]
        assert (ports if not direction else ports[::-1]) == [5353, 53]
        assert r["octets_fwd"] == 70
        assert (r["protocol"], r["ip_version"]) == (UDP, 4)
    assert flows(rows, flow)[0]["octets_rev"] == 90


@pytest.mark.parametrize("probe", ["p", "gateway-ö"])
def test_flow_ids_follow_the_published_formula(plan: Plan, probe: str) -> None:
    done = Run(plan)
    done.feed([at(0, flow=flow) for flow in FLOWS], probe=probe)
    done.end()
    ids = {
        int(flow_id_of(np.uint64(flow_hash(flow)), probe_hash_of(probe), T)): flow_hash(flow)
        for flow in FLOWS
    }
    assert {r["flow_id"] for r in done.rows} == set(ids)
    assert len(ids) == len(FLOWS)
    for flow_id, hashed in ids.items():
        for partitions in (1, 3, 4, 64, 1000):
            assert partition_of(np.uint64(flow_id), partitions) == partition_of(np.uint64(hashed), partitions)


def test_windows_hold_the_packets_of_their_time_and_add_up_to_the_flow(plan: Plan) -> None:
    rows = run(plan, [at(ms, i % 2, octets=100 + i) for i, ms in enumerate((0, 999, 1000, 1700, 3400))]).rows
    windows = sorted((r["interval_start_ns"] - T, r) for r in rows if r.representation == "window")
    assert [start // SECOND for start, _ in windows] == [0, 1, 3]
    assert [r["packets_fwd"] + r["packets_rev"] for _, r in windows] == [2, 2, 1]
    assert [r["octets_fwd"] for _, r in windows] == [100, 102, 104]
    assert [r["end_ns"] - T for _, r in windows] == [999 * MS, 1700 * MS, 3400 * MS]
    assert [r["depth"] for _, r in windows] == [2, 4, 5]
    assert [r["flow_end_reason"] for _, r in windows] == [0, 0, 4]
    assert {named(plan, r)["duration_s"] for _, r in windows} == {1.0}
    short = [r["interval_start_ns"] - T for r in rows if r.representation == "short"]
    assert sorted(short) == [0, 750 * MS, 1000 * MS, 1500 * MS, 3250 * MS]


def test_a_window_closes_without_another_packet_of_its_flow(plan: Plan) -> None:
    done = Run(plan)
    assert [r for r in done.feed([at(0), tick(1199)]) if r.representation == "window"] == []
    (row,) = [r for r in done.feed([tick(1200)]) if r.representation == "window" and r["protocol"] != UDP]
    assert (row["interval_start_ns"], row["flow_end_reason"]) == (T, 0)


def test_a_late_packet_counts_in_the_window_open_at_the_horizon(plan: Plan) -> None:
    rows = run(plan, [at(900), tick(1500), at(950)]).rows
    windows = [r for r in rows if r.representation == "window" and r["protocol"] != UDP]
    assert sorted(r["interval_start_ns"] - T for r in windows) == [0, SECOND]


def test_more_rows_than_the_buffers_hold_come_out_whole(plan: Plan) -> None:
    small = Plan(brisk(max_flows=8192))
    many = [Flow("10.0.0.1", "10.0.0.2", i, 443) for i in range(6000)]
    done = Run(small)
    for start in range(0, 6000, 2000):
        done.feed([Made(T, flow) for flow in many[start : start + 2000]])
    done.end()
    assert len(flows(done.rows)) == 6000
    assert all(len(out.identity) > ROOM for out in small.outs)
    for name in ("early", "window", "short", "deep"):
        assert len({r["flow_id"] for r in done.rows if r.representation == name}) == 6000


def test_two_tables_may_take_turns_between_rows(plan: Plan) -> None:
    """The buffers are shared: what one table has yielded but half must not be lost to another."""
    one, other = ProbeFlows(plan, "one"), ProbeFlows(plan, "other")
    first, second = one.apply(columns_of([at(0)])), other.apply(columns_of([at(0), at(1)]))
    seen: dict[str, list[int]] = {"one": [], "other": []}
    for _ in range(20):
        for name, rows in (("one", first), ("other", second)):
            seen[name] += [number for number, _ in [next(rows, (None, None))] if number is not None]
    assert sorted(seen["one"]) == sorted(seen["other"]) == [0, 1, 2]
    (ended,) = [c for n, c in one.end_all() if plan.representations[n].name == "flow"]
    assert ended["packets_fwd"].tolist() == [1]
    (ended,) = [c for n, c in other.end_all() if plan.representations[n].name == "flow"]
    assert ended["packets_fwd"].tolist() == [2]


def test_packets_at_the_ends_of_time_and_size(plan: Plan) -> None:
    latest = 1 << 62
    packets = [
        Made(0, FLOWS[0], 0, 2**32 - 1, 255, 65535, 65535, 255),
        Made(1, FLOWS[0], 1, 0, 255, 65535, 65535, 255),
        Made(latest, FLOWS[2], 0, 2**32 - 1, ACK),
        Made(latest, FLOWS[2], 0, 0, ACK),
        Made(0, FLOWS[3], 0, 0, 0),
    ]
    done = run(plan, packets)
    records = [r for r in done.rows if r.representation == "flow"]
    assert sum(r["packets_fwd"] + r["packets_rev"] for r in records) == len(packets)
    assert sum(r["octets_fwd"] + r["octets_rev"] for r in records) == 2 * (2**32 - 1)
    assert done.counts["clock_steps"] == 1
    assert all(np.isfinite(r.values).all() for r in done.rows)
