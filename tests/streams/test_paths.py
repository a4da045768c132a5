"""Flows joined over probes: whatever comes first, whatever batches were cut, and across a handover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from schemas.codec import decode, encode
from streams import checkpoint
from streams.config import RepresentationSettings, StreamsSettings
from streams.partition import Partition
from streams.paths import PathJoin
from streams.plan import Plan
from tests.streams.made import ACK, FIN, FLOWS, SECOND, START_NS, SYN, Flow, Made, batch

MS = SECOND // 1000
PROBES = ("a", "b")


def settings(kind: Literal["early", "flow"] = "flow", **more: Any) -> StreamsSettings:
    shapes = tuple(
        RepresentationSettings(name=name, kind=name, features=("totals",)) for name in ("early", "flow")
    )
    return StreamsSettings(representations=shapes, path_join=kind, idle_timeout_s=5, **more)


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {kind: Plan(settings(kind)) for kind in ("early", "flow")}


def conversation(flow: Flow, start_ns: int, lost: int = 0) -> list[Made]:
    """Return ten packets both ways, less the last ``lost`` of them but for the FINs."""
    body = [Made(start_ns + i * MS, flow, i % 2, 100 + i, SYN if i < 2 else ACK) for i in range(8 - lost)]
    return [*body, *(Made(start_ns + (8 + i) * MS, flow, i, 52, FIN | ACK) for i in range(2))]


def run(partition: Partition, feed: Sequence[tuple[str, Sequence[Made]]], size: int) -> list[dict[str, Any]]:
    """Feed each probe's packets in batches of ``size``, in this order; return the paths."""
    paths, sequences = [], dict.fromkeys(PROBES, 0)
    for probe, packets in feed:
        for at in range(0, len(packets), size):
            made = batch(packets[at : at + size], sequences[probe], probe=probe)
            sequences[probe] += 1
            for rows in partition.apply(made, 0, 0):
                paths += partition.joined(rows)
    return paths


def ended(partition: Partition) -> list[dict[str, Any]]:
    return [path for rows in partition.end_all(0) for path in partition.joined(rows)]


def ordered(paths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(paths, key=lambda path: (path["flow_id"], path["other_flow_id"]))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("order", [PROBES, PROBES[::-1]])
def test_flows_meet_in_either_order_and_cut(
    plans: dict[str, Plan], size: int, order: tuple[str, ...]
) -> None:
    at_a = conversation(FLOWS[0], START_NS) + conversation(FLOWS[2], START_NS + SECOND)
    at_b = conversation(FLOWS[0], START_NS + 3 * MS, lost=2) + conversation(
        FLOWS[2], START_NS + SECOND - 7 * MS
    )
    partition = Partition(plans["flow"], 0)
    seen = {"a": at_a, "b": at_b}
    paths = ordered(run(partition, [(probe, seen[probe]) for probe in order], size) + ended(partition))
    by_flow = {path["source_address"]: path for path in paths}
    assert len(paths) == 2
    first, second = by_flow["10.0.0.1"], by_flow["2001:db8::1"]
    assert (first["probe"], first["other_probe"], first["gap_ns"]) == ("a", "b", 3 * MS)
    assert (first["packets_fwd"], first["packets_rev"]) == (5, 5)
    assert (first["other_packets_fwd"], first["other_packets_rev"]) == (4, 4)
    assert (second["probe"], second["start_ns"], second["gap_ns"]) == (
        "b",
        START_NS + SECOND - 7 * MS,
        7 * MS,
    )
    assert first["ended"] and first["flow_id"] != first["other_flow_id"]
    assert decode("FlowPath", encode("FlowPath", first)) == first
    assert partition.counts()["paths"] == 2


def test_early_paths_come_with_the_second_first_packet(plans: dict[str, Plan]) -> None:
    partition = Partition(plans["early"], 0)
    assert run(partition, [("a", [Made(START_NS)])], 1) == []
    (path,) = run(partition, [("b", [Made(START_NS + 250_000)])], 1)
    assert (path["gap_ns"], path["ended"], path["packets_fwd"]) == (250_000, False, 1)


def test_a_flow_that_begins_from_the_other_side_or_too_late_is_another(plans: dict[str, Plan]) -> None:
    partition = Partition(plans["early"], 0)
    feed = [
        ("a", [Made(START_NS, FLOWS[0], 0), Made(START_NS, FLOWS[1], 0)]),
        ("b", [Made(START_NS, FLOWS[0], 1), Made(START_NS + SECOND + 1, FLOWS[1], 0)]),
    ]
    assert run(partition, feed, 10) == []


def test_a_port_used_again_meets_the_nearest_and_each_once(plans: dict[str, Plan]) -> None:
    starts = [START_NS, START_NS + 300 * MS, START_NS + 600 * MS]
    partition = Partition(plans["flow"], 0)
    at = {
        p: [m for s in starts for m in conversation(FLOWS[0], s + late)]
        for p, late in (("a", 0), ("b", 2 * MS))
    }
    # A flow lingers for a second after its FINs: without it three conversations are one flow.
    plan = Plan(settings("flow", tcp_linger_s=0))
    partition = Partition(plan, 0)
    paths = run(partition, list(at.items()), 100) + ended(partition)
    assert [path["start_ns"] for path in sorted(paths, key=lambda p: p["start_ns"])] == starts
    assert {path["gap_ns"] for path in paths} == {2 * MS}


def test_three_probes_are_three_pairs() -> None:
    partition = Partition(Plan(settings("early")), 0)
    feed = [(probe, [Made(START_NS + late * MS)]) for probe, late in (("c", 4), ("a", 0), ("b", 1))]
    paths = []
    for number, (probe, packets) in enumerate(feed):
        for rows in partition.apply(batch(packets, 0, probe=probe, epoch=number), 0, 0):
            paths += partition.joined(rows)
    assert [(p["probe"], p["other_probe"], p["gap_ns"] // MS) for p in paths] == [
        ("a", "c", 4), ("b", "c", 3), ("a", "b", 1),
    ]  # fmt: skip


def test_what_waits_is_bounded_in_time_and_number() -> None:
    plan = Plan(settings("early", path_max_flows=16, path_hold_s=10))
    partition = Partition(plan, 0)
    flows = [FLOWS[0]._replace(port_a=1000 + i) for i in range(20)]
    run(partition, [("a", [Made(START_NS + i, flow) for i, flow in enumerate(flows)])], 100)
    assert partition.paths is not None
    assert partition.paths.waiting == 16
    assert partition.counts()["paths_evicted"] == 4
    for rows in partition.apply(batch([Made(START_NS + 11 * SECOND, FLOWS[1])], 9, probe="a"), 0, 0):
        partition.joined(rows)
    assert partition.paths.waiting == 1
    assert partition.counts()["paths_alone"] == 16


def test_the_next_worker_goes_on_with_what_waits(plans: dict[str, Plan]) -> None:
    at_a, at_b = (conversation(FLOWS[0], START_NS + late) for late in (0, MS))
    whole, former = (Partition(plans["early"], 0) for _ in range(2))
    expected = run(whole, [("a", at_a), ("b", at_b)], 100)
    assert run(former, [("a", at_a)], 100) == []
    later = checkpoint.load(checkpoint.save(former), plans["early"], 0, 0)
    made = batch(at_b, 0, probe="b")
    assert [path for rows in later.apply(made, 0, 0) for path in later.joined(rows)] == expected
    assert expected[0]["gap_ns"] == MS
    # A state whose paths are of another setting is still a good state.
    other = checkpoint.load(checkpoint.save(former), plans["flow"], 0, 0)
    assert other.paths is not None and other.active == former.active


def test_too_many_probes_are_counted() -> None:
    partition, join = Partition(Plan(settings("early")), 0), PathJoin("early", SECOND, SECOND, 100)
    for number in range(66):
        for rows in partition.apply(batch([Made(START_NS)], 0, probe=f"p{number}"), 0, 0):
            join.add(rows)
    assert join.counters["paths_of_too_many_probes"] == 2


GOLDEN = Path(__file__).with_name("golden_paths.txt")


def test_golden_paths(plans: dict[str, Plan]) -> None:
    import json
    import os

    rng = np.random.default_rng(7)
    feed: dict[str, list[Made]] = {"a": [], "b": []}
    for i, flow in enumerate(FLOWS[:5]):
        start_ns = START_NS + i * SECOND
        way_ns = int(rng.integers(1, 20)) * MS // 4
        feed["a"] += conversation(flow, start_ns)
        feed["b"] += conversation(flow, start_ns + way_ns, lost=i % 3)
    partition = Partition(plans["flow"], 0)
    paths = ordered(run(partition, list(feed.items()), 7) + ended(partition))
    got = "".join(json.dumps(path) + "\n" for path in paths)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(got, encoding="utf-8")
    assert got == GOLDEN.read_text(encoding="utf-8")
