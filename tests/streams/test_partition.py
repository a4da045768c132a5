"""Probes, sequence numbers, ends of streams and silence in one partition."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.partition import EPOCHS_KEPT
from streams.plan import Plan
from tests.streams.made import FLOWS, SECOND, START_NS, Made, Row, Run, batch

P = Made(START_NS)


def one(offset_ns: int = 0) -> list[Made]:
    return [Made(START_NS + offset_ns)]


def packets_in(rows: list[Row], representation: str = "flow") -> int:
    return sum(r["packets_fwd"] + r["packets_rev"] for r in rows if r.representation == representation)


def apply(run: Run, sequence: int, epoch: int = 1, **more: object) -> list[Row]:
    return run.take(run.partition.apply(batch(one(), sequence, epoch=epoch, **more), 0, 0))  # type: ignore[arg-type]


def test_a_batch_that_comes_again_changes_nothing_and_is_counted(plan: Plan) -> None:
    run = Run(plan)
    apply(run, 0)
    apply(run, 1)
    for sequence in (1, 0, 1):
        assert apply(run, sequence) == []
    run.end()
    assert packets_in(run.rows) == 2
    assert run.counts["batches"] == run.counts["packets"] == 2
    assert run.counts["batches_duplicate"] == run.counts["packets_duplicate"] == 3
    assert run.counts["batches_missing"] == 0


def test_gaps_are_counted_and_not_waited_for(plan: Plan) -> None:
    run = Run(plan)
    for sequence in (0, 3, 4, 10):
        apply(run, sequence)
    assert run.counts["batches_missing"] == 2 + 5
    assert run.counts["packets"] == 4


def test_an_epoch_counts_from_0_and_the_former_is_remembered(plan: Plan) -> None:
    run = Run(plan)
    apply(run, 0, epoch=1)
    apply(run, 1, epoch=1)
    apply(run, 0, epoch=2)
    assert run.counts["packets"] == 3
    # After a restart of the probe the bus delivers the former epoch's last message again.
    apply(run, 1, epoch=1)
    apply(run, 0, epoch=2)
    assert run.counts["packets_duplicate"] == 2
    apply(run, 1, epoch=2)
    assert run.counts["packets"] == 4
    assert run.counts["batches_missing"] == 0


def test_as_many_epochs_are_remembered_as_redeliveries_reach_over(plan: Plan) -> None:
    run = Run(plan)
    for epoch in range(1, 40):
        apply(run, 0, epoch=epoch)
    assert len(run.partition.probes["p"].sequences) == EPOCHS_KEPT
    for epoch in range(39, 39 - EPOCHS_KEPT, -1):
        apply(run, 0, epoch=epoch)
    assert run.counts["batches_duplicate"] == EPOCHS_KEPT


def test_sequences_are_of_each_probe(plan: Plan) -> None:
    run = Run(plan)
    apply(run, 0, probe="one")
    apply(run, 0, probe="two")
    assert run.counts["batches"] == 2
    assert run.counts["batches_duplicate"] == run.counts["batches_missing"] == 0


def test_a_batch_of_another_partition_is_counted_and_used(plan: Plan) -> None:
    run = Run(plan)
    apply(run, 0, partition=2)
    assert run.counts["batches_misplaced"] == 1
    assert run.counts["packets"] == 1


def test_probes_have_flows_and_clocks_of_their_own(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), probe="one")
    run.feed(one(100 * SECOND), probe="two")
    run.feed(one(1 * SECOND), probe="one")
    assert run.partition.active == 2
    assert run.counts["packets_late"] == 0
    run.end()
    flows = [r for r in run.rows if r.representation == "flow"]
    assert sorted((r.probe, r["packets_fwd"]) for r in flows) == [("one", 2), ("two", 1)]
    assert len({r["flow_id"] for r in flows}) == 2


def test_the_end_of_a_stream_ends_its_probes_flows_and_resets_its_clock(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), probe="one")
    run.feed(one(), probe="two")
    rows = run.feed([], probe="one", end_of_stream=True)
    assert [(r.probe, r["flow_end_reason"]) for r in rows if r.representation == "flow"] == [("one", 4)]
    assert run.partition.active == 1
    assert run.counts["streams_ended"] == 1
    # The next stream may begin anywhere in time.
    run.feed(one(-1000 * SECOND), probe="one", epoch=2)
    assert run.counts["clock_steps"] == run.counts["packets_late"] == 0


def test_the_end_of_a_stream_may_carry_packets(plan: Plan) -> None:
    run = Run(plan)
    rows = run.feed([*one(), *one(1)], end_of_stream=True)
    assert packets_in(rows) == 2


def test_rows_tell_what_made_them(plan: Plan) -> None:
    run = Run(plan)
    made = batch(one(), 5, probe="g", epoch=77, replayed=True).sealed(1111)
    batches = list(run.partition.apply(made, 2222, 0))
    assert {b.representation for b in batches} == {"early", "deep", "steps"}
    for b in batches:
        assert (b.probe, b.partition, b.source_epoch, b.source_sequence) == ("g", 0, 77, 5)
        assert (b.probe_time_ns, b.flows_received_time_ns, b.replayed) == (1111, 2222, True)
        rep = next(r for r in plan.representations if r.name == b.representation)
        assert b.feature_names == rep.names
    (b, *_) = run.partition.end_all(3333)
    assert (b.source_epoch, b.source_sequence, b.probe_time_ns, b.replayed) == (0, -1, 3333, True)


def test_silence_moves_event_time_by_the_wall_clock_and_closes_flows_once(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), now_ns=0)
    closed: list[tuple[float, Row]] = []
    for tenth in range(1, 400):
        now_ns = tenth * SECOND // 10
        for row in run.take(run.partition.tick(now_ns, now_ns)):
            closed.append((tenth / 10, row))
    assert run.partition.active == 0
    flows = [(when, r["flow_end_reason"]) for when, r in closed if r.representation == "flow"]
    # Idle for 2 s, late by 0.2 s: half of the first 5 s of silence are enough.
    assert flows == [(5.0, 1)]
    assert packets_in(run.rows, "window") == packets_in(run.rows) == 1
    run.end()
    assert packets_in(run.rows) == 1


def test_no_silence_no_wall_clock(plan: Plan) -> None:
    run = Run(plan)
    for tenth in range(0, 400, 49):
        now_ns = tenth * SECOND // 10
        run.feed(one(tenth), now_ns=now_ns)
        assert run.take(run.partition.tick(now_ns + 49 * SECOND // 10, now_ns + 49 * SECOND // 10)) == []
    assert run.partition.active == 1


def test_long_silence_lags_the_wall_clock_by_a_bounded_time(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), now_ns=0)
    flows = run.partition.probes["p"].flows
    for second in range(1, 1000):
        # A packet of a long-lived flow is not what keeps the clock going.
        list(run.partition.tick(second * SECOND, second * SECOND))
        if run.partition.active == 0:
            break
        assert flows.watermark_ns - START_NS <= second * SECOND
        assert second < 5 or flows.watermark_ns - START_NS >= (second - 5) * SECOND
    assert run.partition.active == 0


def test_silence_of_one_probe_leaves_the_others_alone(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), probe="silent", now_ns=0)
    run.feed(one(), probe="busy", now_ns=4 * SECOND)
    rows = run.take(run.partition.tick(6 * SECOND, 6 * SECOND))
    assert {r.probe for r in rows} == {"silent"}


def test_packets_after_a_silence_are_whole_again(plan: Plan) -> None:
    run = Run(plan)
    run.feed(one(), now_ns=0)
    run.take(run.partition.tick(30 * SECOND, 30 * SECOND))
    run.feed([Made(START_NS + 1, FLOWS[0]), Made(START_NS + 31 * SECOND, FLOWS[0])], now_ns=31 * SECOND)
    run.end()
    assert packets_in(run.rows) == packets_in(run.rows, "window") == 3


def test_forgotten_counts_are_zero_and_flows_stay(plan: Plan) -> None:
    run = Run(plan)
    run.feed([*one(), *one(-1)])
    run.partition.forget_counts()
    assert set(run.counts.values()) == {0}
    assert run.partition.active == 1


@settings(max_examples=60, deadline=None)
@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.integers(1, 3),
            st.integers(0, 6),
            st.integers(0, 3),
            st.sampled_from(["", "", "end", "tick", "reload"]),
        ),
        max_size=25,
    )
)
def test_every_packet_not_counted_as_duplicate_is_in_one_record(
    plan: Plan, acts: list[tuple[str, int, int, int, str]]
) -> None:
    run, sent, now_ns = Run(plan), Counter[str](), 0
    for probe, epoch, sequence, packets, act in acts:
        now_ns += 3 * SECOND
        made = [Made(START_NS + now_ns, FLOWS[i], 0, 77) for i in range(packets)]
        coming = batch(made, sequence, probe=probe, epoch=epoch, end_of_stream=act == "end")
        run.take(run.partition.apply(coming, 0, now_ns))
        sent["packets"] += packets
        if act == "tick":
            now_ns += 20 * SECOND
            run.take(run.partition.tick(now_ns, now_ns))
        elif act == "reload":
            run.reload()
    run.end()
    kept = sent["packets"] - run.counts.get("packets_duplicate", 0)
    assert run.counts.get("packets", 0) == kept
    for name in ("flow", "window", "short"):
        assert packets_in(run.rows, name) == kept
    flows = [r for r in run.rows if r.representation == "flow"]
    assert sum(r["octets_fwd"] for r in flows) == 77 * kept
    assert sum(n for name, n in run.counts.items() if name.startswith("closed_")) == len(flows)
    for name in ("early", "deep", "window", "short", "flow"):
        emitted = sum(r.representation == name for r in run.rows)
        assert run.counts.get(f"rows_{name}", 0) == emitted


@pytest.mark.parametrize("replayed", [True, False])
def test_replayed_is_passed_on_at_the_end_too(plan: Plan, replayed: bool) -> None:
    run = Run(plan)
    list(run.partition.apply(batch([P], 0, replayed=replayed), 0, 0))
    assert {b.replayed for b in run.partition.end_all(0)} == {replayed}
