"""Services of flows through the flow table: when a flow has one, from which packet on, and what it collects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flowgauge.records import record_columns
from schemas.features import FeatureBatch, decode_feature_batch
from schemas.packets import NameSource, join_names
from streams import checkpoint
from streams.config import RepresentationSettings, StreamsSettings
from streams.partition import Partition
from streams.plan import Plan
from streams.services import named
from streams.services.config import ServiceSettings
from tests.streams.made import FLOWS, SECOND, START_NS, SYN, Flow, Made, batch

WEB, OTHER, UDP_FLOW = FLOWS[0], FLOWS[1], FLOWS[3]
SETTINGS = StreamsSettings(
    max_flows=64,
    lateness_s=0,
    idle_timeout_s=20,
    active_timeout_s=60,
    representations=(RepresentationSettings(name="flow", kind="flow", features=("totals",)),),
    services=(
        ServiceSettings(name="video", domains=("video.example",), collect=("size_statistics",), every_s=1),
        ServiceSettings(
            name="lab", prefixes=("10.0.0.0/30", "2001:db8::/64"), collect=("totals",), every_s=1
        ),
        ServiceSettings(name="dns", ports=("udp/53",)),
    ),
)
Name = tuple[int, str, NameSource]
"""Packet, name, source."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(SETTINGS)


def named_batch(packets: Sequence[Made], number: int = 0, names: Sequence[Name] = ()) -> Any:
    made = batch(packets, number)
    if names:
        texts = sorted({name for _, name, _ in names})
        made.columns.update(
            names=join_names(texts),
            name_packet=np.array([at for at, _, _ in names], np.uint16),
            name_index=np.array([texts.index(name) for _, name, _ in names], np.uint16),
            name_source=np.array([source for _, _, source in names], np.uint8),
        )
    return made


def rows_of(batches: Sequence[FeatureBatch]) -> list[dict[str, Any]]:
    """Return rows by way of the wire."""
    out = []
    for made in batches:
        decoded = decode_feature_batch(made.encode())
        columns = {n: c if isinstance(c, list) else c.tolist() for n, c in record_columns(decoded).items()}
        for i in range(decoded.rows):
            out.append({"representation": decoded.representation, **{n: c[i] for n, c in columns.items()}})
    return out


def run(plan: Plan, *batches: Any) -> tuple[list[dict[str, Any]], Partition]:
    partition = Partition(plan, 0)
    out = [made for one in batches for made in partition.apply(one, 0, 0)]
    return rows_of([*out, *partition.end_all(0)]), partition


def told(rows: Sequence[dict[str, Any]], representation: str = "flow") -> list[tuple[str, str, str]]:
    return [
        (r["service"], r["service_found_by"], r["server_name"])
        for r in rows
        if r["representation"] == representation
    ]


def at(seconds: float, flow: Flow = WEB, **how: Any) -> Made:
    return Made(START_NS + round(seconds * SECOND), flow, **how)


def test_prefixes_and_ports_and_unknown(plan: Plan) -> None:
    elsewhere = Flow("198.51.100.1", "203.0.113.1", 40000, 443)
    rows, partition = run(plan, named_batch([at(0), at(0, UDP_FLOW), at(0, FLOWS[2]), at(0, elsewhere)]))
    assert sorted(told(rows)) == [
        ("", "", ""),
        ("lab", "prefix", ""),
        ("lab", "prefix", ""),
        ("lab", "prefix", ""),
    ]
    counts = partition.counts()
    assert counts["service_lab_packets"] == 3
    assert {name: n for name, n in counts.items() if name.startswith("unknown_")} == {
        "unknown_p_packets": 1,
        "unknown_p_octets": 100,
        "unknown_p_flows": 1,
    }


def test_a_flow_has_its_name_from_the_packet_on_that_told_it(plan: Plan) -> None:
    packets = [at(0.1), at(0.2), at(0.3, octets=500), at(0.4, octets=700)]
    rows, partition = run(plan, named_batch(packets, names=[(2, "www.video.example", NameSource.TLS_SNI)]))
    assert told(rows) == [("video", "tls_sni", "www.video.example")]
    windows = {r["representation"]: r["packets_fwd"] for r in rows if r["representation"] != "flow"}
    assert windows == {"lab": 2, "video": 2}
    counts = partition.counts()
    assert (counts["service_video_packets"], counts["service_video_flows"]) == (2, 1)
    assert (counts["service_lab_packets"], counts["service_lab_flows"]) == (2, 0)


def test_what_dns_told_counts_at_the_first_packet_only(plan: Plan) -> None:
    names = [(0, "video.example", NameSource.DNS), (2, "video.example", NameSource.DNS)]
    rows, _ = run(plan, named_batch([at(0), at(0, OTHER), at(0.1, OTHER)], names=names))
    assert sorted(told(rows)) == [("lab", "prefix", ""), ("video", "dns", "video.example")]


def test_what_a_flow_says_takes_the_place_of_what_dns_told(plan: Plan) -> None:
    names = [(0, "video.example", NameSource.DNS), (1, "other.example", NameSource.TLS_SNI)]
    rows, _ = run(plan, named_batch([at(0), at(0.1)], names=names))
    assert told(rows) == [("lab", "prefix", "other.example")]


def test_a_flow_keeps_its_name_over_its_active_timeout_but_not_over_a_new_connection(plan: Plan) -> None:
    packets = [at(10 * n) for n in range(8)]
    rows, _ = run(plan, named_batch(packets, names=[(0, "video.example", NameSource.QUIC_SNI)]))
    assert told(rows) == [("video", "quic_sni", "video.example")] * 2
    packets = [at(0), at(1, flags=4), at(1.5, flags=SYN)]
    rows, _ = run(plan, named_batch(packets, names=[(0, "video.example", NameSource.HTTP_HOST)]))
    assert told(rows) == [("video", "http_host", "video.example"), ("lab", "prefix", "")]


def test_a_restart_keeps_services_and_names(plan: Plan) -> None:
    first = named_batch([at(0.1)], 0, [(0, "video.example", NameSource.TLS_SNI)])
    second = named_batch([at(0.2, octets=400), at(1.2)], 1)
    whole, _ = run(plan, first, second)
    partition = Partition(plan, 0)
    before = list(partition.apply(first, 0, 0))
    restored = checkpoint.load(checkpoint.save(partition), plan, 0, 0)
    after = [*restored.apply(second, 0, 0), *restored.end_all(0)]
    assert rows_of([*before, *after]) == whole
    assert told(whole) == [("video", "tls_sni", "video.example")]


def test_rows_do_not_depend_on_how_batches_are_cut(plan: Plan) -> None:
    draw = np.random.default_rng(3)
    packets = [at(n / 50, FLOWS[draw.integers(len(FLOWS))]) for n in range(400)]
    names = [(n, f"w{n}.video.example", NameSource.TLS_SNI) for n in range(5, 400, 37)]
    whole, _ = run(plan, named_batch(packets, 0, names))
    cuts = [0, 5, 6, 42, 43, 200, 400]
    parts = [
        named_batch(packets[x:y], n, [(p - x, name, source) for p, name, source in names if x <= p < y])
        for n, (x, y) in enumerate(pairwise(cuts))
    ]
    cut, _ = run(plan, *parts)
    assert sorted(map(repr, cut)) == sorted(map(repr, whole))


def test_names_that_nobody_has_are_forgotten(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "MOST_NAMES", 8)
    partition = Partition(plan, 0)
    made = []
    for n in range(50):
        flow = Flow("10.0.0.1", "10.0.0.2", 40000 + n % 5, 443)
        name = [(0, f"n{n}.video.example", NameSource.TLS_SNI)]
        made += list(partition.apply(named_batch([at(n, flow)], n, name), 0, 0))
        assert len(partition.probes["p"].flows.names.texts) <= 16
    rows = rows_of([*made, *partition.end_all(0)])
    assert {r["server_name"] for r in rows if r["representation"] == "flow"} == {
        f"n{n}.video.example" for n in range(45, 50)
    }


def test_without_services_nothing_is_paid() -> None:
    bare = SETTINGS.model_copy(update={"services": ()})
    without = Plan(bare)
    assert "service" not in (without.row_dtype.names or ())
    rows, partition = run(without, named_batch([at(0)], names=[(0, "video.example", NameSource.TLS_SNI)]))
    assert "service" not in rows[0]
    assert not [name for name in partition.counts() if "service" in name or "unknown" in name]


def test_services_share_their_place_in_a_row(plan: Plan) -> None:
    fields: Any = plan.row_dtype.fields
    assert fields["video_counts"][1] == fields["lab_counts"][1]
