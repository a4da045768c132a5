"""What the flows agent makes of the first packets of each flow, beside what it makes of all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from producers.config import PacketsSettings
from producers.first_packets import FirstPackets, Selection
from producers.names.told import NOTHING_TOLD
from schemas.features import FeatureBatch
from schemas.packets import split_names
from streams.config import RepresentationSettings, StreamsSettings
from streams.flow_rules import first_packets, flow_rules
from streams.offline import OfflineSummary, run_offline
from streams.plan import Plan
from streams.services.config import ServiceSettings
from tests.producers.frames import Record, ethernet, ip4, pcap, tcp, udp
from tests.producers.names.hellos import a, dns, hello, records
from tests.streams.made import (
    ACK,
    FIN,
    FLOWS,
    RST,
    START_NS,
    SYN,
    Flow,
    Made,
    Row,
    brisk,
    decoded,
    rows_of,
    run,
)

SECOND = 1_000_000_000
STEP_NS = 50_000_000
FEATURES = ("protocol", "packet_sequence", "flag_sequence", "ttl", "tcp_window")


def early_of(depth: int) -> RepresentationSettings:
    return RepresentationSettings(
        name="early", kind="early", features=FEATURES, depths=tuple(range(1, depth + 1)), ends=True
    )


FLOW = RepresentationSettings(name="flow", kind="flow", features=("totals",))


def offline(capture: Path, first: int, depth: int) -> tuple[OfflineSummary, list[Row]]:
    streams = StreamsSettings(representations=(early_of(depth), FLOW))
    batches: list[FeatureBatch] = []
    summary = run_offline(
        [str(capture)],
        streams,
        partitions=4,
        probe="p",
        on_batch=batches.append,
        selection=first_packets(PacketsSettings(first_packets=first), streams),
    )
    return summary, rows_of(batches)


def of_kind(rows: list[Row], name: str) -> list[Row]:
    # Flows of one five-tuple that begin at the same time have the same id.
    mine = [row for row in rows if row.representation == name]
    return sorted(mine, key=lambda row: (row["flow_id"], row["end_ns"]))


@pytest.mark.parametrize("first", [1, 3, 10])
def test_the_demo_captures_early_rows_and_flows_are_those_of_all_packets(
    demo_capture: Path, first: int
) -> None:
    everything, all_rows = offline(demo_capture, 0, first)
    summary, rows = offline(demo_capture, first, first)
    packets = summary.counters["packets"]
    assert packets + summary.left_out == summary.accepted == everything.accepted
    assert summary.left_out > everything.accepted * 0.7 and everything.left_out == 0

    # A flow that ends before has a row for its end, whose reason may differ where the capture ends.
    late_ns = max(row["end_ns"] for row in all_rows) - 64 * SECOND
    mine, theirs = of_kind(rows, "early"), of_kind(all_rows, "early")
    assert [r for r in mine if not r["flow_end_reason"]] == [r for r in theirs if not r["flow_end_reason"]]
    assert [r for r in mine if r["end_ns"] < late_ns] == [r for r in theirs if r["end_ns"] < late_ns]

    flows, all_flows = of_kind(rows, "flow"), of_kind(all_rows, "flow")
    assert summary.flows == everything.flows == len(flows) == len(all_flows)
    by_id = {row["flow_id"]: row for row in all_flows}
    counted: Counter[str] = Counter()
    for row in flows:
        whole = by_id.pop(row["flow_id"])
        assert row["start_ns"] == whole["start_ns"]
        assert 0 <= whole["end_ns"] - row["end_ns"] < 4 * SECOND
        if whole["end_ns"] < late_ns:
            assert row["flow_end_reason"] == whole["flow_end_reason"]
        total = row["packets_fwd"] + row["packets_rev"]
        assert min(first, whole["packets_fwd"] + whole["packets_rev"]) <= total
        counted.update(packets=total, short=total < whole["packets_fwd"] + whole["packets_rev"])
    assert not by_id
    assert counted["packets"] == packets and counted["short"] > 100


# Steps of time, never back; the idle timeout is 40 of them, the linger 10, a sign of life 10.
STEPS = (0, 0, 0, 1, 1, 1, 2, 3, 5, 9, 10, 11, 25, 41, 90)
FLAGS = (ACK, ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK, FIN | ACK, RST)
SIGN_NS = 10 * STEP_NS


@st.composite
def in_order(draw: st.DrawFn) -> list[Made]:
    time_ns, out = START_NS, []
    few = draw(st.integers(1, 3))
    parts = st.tuples(
        st.sampled_from(STEPS), st.integers(0, few - 1), st.integers(0, 1), st.sampled_from(FLAGS)
    )
    for i, (step, flow, direction, flags) in enumerate(draw(st.lists(parts, max_size=80))):
        time_ns += step * STEP_NS
        flags = flags if FLOWS[flow].protocol == 6 else 0
        out.append(Made(time_ns, FLOWS[flow], direction, 100 + i, flags, 40, i * 257, i))
    return out


def silences_ns(packets: list[Made]) -> list[int]:
    """Return the time between two packets that follow each other in a five-tuple."""
    last: dict[object, int] = {}
    out = []
    for p in packets:
        out.append(p.time_ns - last.get(p.flow, p.time_ns))
        last[p.flow] = p.time_ns
    return out


def chosen(plan: Plan, packets: list[Made]) -> list[Made]:
    """Return the packets that a probe sends, of which the octets tell one from the other: the first 3 of a flow."""
    selector = FirstPackets(Selection(3, 1024, flow_rules(plan.settings), SIGN_NS), 1)
    block = decoded(packets)
    columns, _ = selector.take(block, (0, block.packets), NOTHING_TOLD)
    kept = set(columns.octets.tolist())
    return [p for p in packets if p.octets in kept]


def is_of(row: Row, flow: Flow) -> bool:
    """Return whether a row is about a five-tuple."""
    ends = {(row[f"{end}_address"], row[f"{end}_port"]) for end in ("source", "destination")}
    mine = {(flow.address("a"), flow.port_a), (flow.address("b"), flow.port_b)}
    return ends == mine and row["protocol"] == flow.protocol


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(brisk(representations=(early_of(3), FLOW)))


RESET_AND_OPENED_AT_ONCE = [
    Made(START_NS + ms * 1_000_000, FLOWS[0], 0, 100 + i, flags)
    for i, (ms, flags) in enumerate(
        [(0, 16), (50, 16), (4550, 4), (4550, 2), (4600, 16), (4600, 16), (4650, 16)]
    )
]


@settings(max_examples=200, deadline=None)
@given(packets=in_order())
@example(packets=RESET_AND_OPENED_AT_ONCE)
def test_rows_up_to_the_depth_and_flows_are_those_of_all_packets_that_come_in_order(
    plan: Plan, packets: list[Made]
) -> None:
    idle_ns = flow_rules(plan.settings).idle_ns
    # A silence nearly as long as the timeout ends a flow whose last packets were left out.
    assume(not any(idle_ns - SIGN_NS < silence <= idle_ns for silence in silences_ns(packets)))
    done, whole = run(plan, chosen(plan, packets), 7), run(plan, packets, 7)
    early = [sorted(r for r in rows if r.representation == "early" and not r["flow_end_reason"])
             for rows in (done.rows, whole.rows)]  # fmt: skip
    assert early[0] == early[1]
    flows = [of_kind(rows, "flow") for rows in (done.rows, whole.rows)]
    assert [row["flow_id"] for row in flows[0]] == [row["flow_id"] for row in flows[1]]
    for row, other in zip(*flows, strict=True):
        assert row["start_ns"] == other["start_ns"]
        assert 0 <= other["end_ns"] - row["end_ns"] < SIGN_NS


@settings(max_examples=200, deadline=None)
@given(packets=in_order())
def test_the_agents_flows_have_their_first_packets_whatever_the_silences(
    plan: Plan, packets: list[Made]
) -> None:
    """Where a silence ends a flow at the agent alone, the probe knows, and sends the next one's first packets."""
    sent = chosen(plan, packets)
    rows = of_kind(run(plan, sent, 7).rows, "flow")
    assume(len({row["flow_id"] for row in rows}) == len(rows))
    for flow in FLOWS[:3]:
        numbers = {p.octets: i for i, p in enumerate([p for p in packets if p.flow == flow])}
        places = [numbers[p.octets] for p in sent if p.flow == flow]
        begin = 0
        for row in sorted((row for row in rows if is_of(row, flow)), key=lambda row: row["start_ns"]):
            count = row["packets_fwd"] + row["packets_rev"]
            firsts = places[begin : begin + min(count, 3)]
            if count < 3:  # then the next packet, if there is one, begins another flow
                firsts += places[begin + count : begin + count + 1] or [len(numbers)]
            assert firsts == list(range(firsts[0], firsts[0] + len(firsts)))
            begin += count
        assert begin == len(places)


def test_a_flow_is_heard_of_before_it_or_its_probe_is_taken_for_silent() -> None:
    def sign_s(**streams: Any) -> float:
        selection = first_packets(PacketsSettings(first_packets=10), StreamsSettings(**streams))
        assert selection is not None and selection.packets == 10
        return selection.sign_of_life_ns / SECOND

    assert sign_s() == 4.0
    assert sign_s(silence_s=600, probe_silence_s=600, idle_timeout_s=600) == 4.0
    assert sign_s(idle_timeout_s=3) == 1.5
    assert sign_s(silence_s=2) == 1.6
    assert sign_s(probe_silence_s=1) == 0.8
    assert first_packets(PacketsSettings(), StreamsSettings()) is None


def test_the_selection_is_what_the_settings_say() -> None:
    streams = StreamsSettings(idle_timeout_s=20, active_timeout_s=30, tcp_linger_s=2, lateness_s=0.5)
    found = first_packets(PacketsSettings(first_packets=7, max_flows=99), streams)
    assert found == Selection(7, 99, flow_rules(streams), 4 * SECOND)
    assert np.array(found.rules).tolist() == [20 * SECOND, 30 * SECOND, 2 * SECOND, SECOND // 2]


def test_flows_have_the_names_that_all_packets_tell(tmp_path: Path) -> None:
    """A DNS answer late in its flow, and a TLS hello behind the first packets, name what they name anyway."""
    told = dns("video.example", a(b"\xc0\x0c", "192.0.2.7"))
    resolver, client, server = "10.0.0.53", "10.0.0.1", "192.0.2.7"
    frames = [
        *[ip4(udp(53, 5000, b"x"), 17, resolver, client)] * 3,
        ip4(udp(53, 5000, told), 17, resolver, client),
        *[ip4(udp(6000, 9, b"video"), 17, client, server)] * 3,
        ip4(tcp(7000, 443, flags=SYN), 6, client, "192.0.2.8"),
        *[ip4(tcp(7000, 443), 6, client, "192.0.2.8")] * 2,
        ip4(tcp(7000, 443, records(hello(b"web.example"))), 6, client, "192.0.2.8"),
        *[ip4(tcp(7000, 443, b"data"), 6, client, "192.0.2.8")] * 3,
    ]
    path = tmp_path / "named.pcap"
    path.write_bytes(
        pcap([Record(ethernet(ip), START_NS + i) for i, ip in enumerate(frames)], nanoseconds=True)
    )
    services = tuple(ServiceSettings(name=name, domains=(f"{name}.example",)) for name in ("video", "web"))
    settings = StreamsSettings(representations=(FLOW,), services=services)
    found = []
    for first in (0, 1):
        batches: list[FeatureBatch] = []
        selection = first_packets(PacketsSettings(first_packets=first), settings)
        summary = run_offline(
            [str(path)], settings, partitions=2, probe="p", on_batch=batches.append, selection=selection
        )
        # Sent are the first of three flows, the answer and the hello.
        assert summary.left_out == (len(frames) - 5 if first else 0)
        found.append({name: counted["flows"] for name, counted in summary.services.items()})
        names = {name for b in batches for name in split_names(b.columns["texts"])}
        assert {"video.example", "web.example"} <= names
    assert found[0] == found[1] == {"unknown": 1, "video": 1, "web": 1}
