"""``flowgauge bench serve`` without a broker: what is sent, and how it is held against what was answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flowgauge.bench.run import DEMO_CAPTURE
from flowgauge.bench.serve.generator import BLOCK_ROWS, Given, first_of, new_wheel, plan_flows, step
from flowgauge.bench.serve.report import show
from flowgauge.bench.serve.run import MOST_FLOWS, ServeOptions, measure
from flowgauge.bench.serve.score import MISS, answers, flow_ids, weighted_f1
from flowgauge.bench.serve.templates import Templates, labels_beside, read_templates
from flowgauge.bench.serve.train import split
from flowgauge.settings import load
from producers.columns import PacketColumns, allocate
from producers.config import PacketsSettings
from producers.first_packets import FirstPackets
from producers.names.told import NOTHING_TOLD
from schemas.codec import encode
from schemas.errors import InputError, SettingsError
from schemas.flow_key import flow_id_of, probe_hash_of
from streams.config import StreamsSettings
from streams.flow_rules import first_packets
from tests.flowgauge.test_command import HASTE, flowgauge, one_line
from tests.schemas.messages import RECORDS

BASE_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def templates() -> Templates:
    return read_templates([str(DEMO_CAPTURE)], [str(labels_beside(str(DEMO_CAPTURE)))], 10.0)


def given_of(templates: Templates) -> Given:
    return Given(
        templates.first, templates.offset_ns, templates.protocol, templates.ip_version,
        templates.source_port, templates.destination_port, **templates.packets,
    )  # fmt: skip


def sent(
    templates: Templates, begins: np.ndarray, template: np.ndarray, seconds: float
) -> list[PacketColumns]:
    """Return copies of all blocks, in steps of odd length."""
    wheel, block, blocks = new_wheel(begins, template), allocate(BLOCK_ROWS), []
    for until_ns in range(0, round(seconds * 1e9) + 1, 37_000_000):
        while True:
            rows = step(wheel, given_of(templates), until_ns, BASE_NS, block)
            blocks.append(PacketColumns._make(column[:rows].copy() for column in block))
            if rows < BLOCK_ROWS:
                break
    return blocks


def test_templates_are_the_labelled_flows_with_their_packets(templates: Templates) -> None:
    assert templates.flows > 1600 and {"dns", "web", "ssh"} <= set(templates.classes)
    assert (np.diff(templates.first) >= 1).all() and np.diff(templates.first).max() > 300
    assert (templates.offset_ns[templates.first[:-1]] == 0).all()
    assert (templates.packets["direction"][templates.first[:-1]] == 0).all()
    some = templates.take(np.array([3, 1]))
    assert some.flows == 2 and some.first[1] == templates.first[4] - templates.first[3]


def test_every_packet_is_sent_once_at_its_time_under_an_address_of_its_own(templates: Templates) -> None:
    begins, template = plan_flows(templates.flows, 3000, 1.0, 7)
    blocks = sent(templates, begins, template, 15.0)
    hashes, times = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("flow_hash", "time_ns"))
    lengths = np.diff(templates.first)[template]
    first, offsets = templates.first, templates.offset_ns
    due = [b + offsets[first[t] : first[t + 1]] for b, t in zip(begins, template, strict=True)]
    late = np.concatenate(due)
    whole = np.sort(late[late < 14_900_000_000])
    assert np.sort(times - BASE_NS)[: len(whole)].tolist() == whole.tolist()
    assert len(np.unique(hashes)) == len(begins) and lengths.sum() >= len(times)
    # A flow's packets keep their order, whatever block they are in.
    order = np.argsort(hashes, kind="stable")
    same = np.diff(hashes[order]) == 0
    assert (np.diff(times[order])[same] >= 0).all()


def test_the_ids_of_flows_are_those_that_the_flows_agent_gives(templates: Templates) -> None:
    begins, template = plan_flows(templates.flows, 500, 1.0, 7)
    blocks = sent(templates, begins, template, 1.1)
    probe = probe_hash_of("bench")
    ids = set(flow_ids(given_of(templates), template, BASE_NS + begins, probe).tolist())
    assert len(ids) == len(begins)
    firsts: dict[int, int] = {}
    for block in blocks:
        for flow_hash, time_ns in zip(block.flow_hash.tolist(), block.time_ns.tolist(), strict=True):
            firsts[flow_hash] = min(time_ns, firsts.get(flow_hash, time_ns))
    assert {int(flow_id_of(np.uint64(h), probe, t)) for h, t in firsts.items()} == ids


def test_the_source_is_always_the_smaller_address(templates: Templates) -> None:
    begins, template = plan_flows(templates.flows, 2000, 1.0, 3)
    for block in sent(templates, begins, template, 1.0):
        assert all(a.tobytes() < b.tobytes() for a, b in zip(block.address_a, block.address_b, strict=True))


def test_first_packets_are_chosen_by_what_a_probe_chooses_them_with(templates: Templates) -> None:
    """What the generator is told comes to it as JSON."""
    streams = StreamsSettings(idle_timeout_s=10)
    selection = first_packets(PacketsSettings(first_packets=10), streams)
    first = first_of(json.loads(json.dumps(selection)), 2)
    assert first is not None and first_of(None, 2) is None
    begins, template = plan_flows(templates.flows, 300, 1.0, 7)
    blocks = sent(templates, begins, template, 3.0)
    ours, theirs = (
        [chosen.take(block, (0, block.packets), NOTHING_TOLD)[0].time_ns.tolist() for block in blocks]
        for chosen in (first, FirstPackets(selection, 2))  # type: ignore[arg-type]
    )
    assert ours == theirs
    assert 300 < sum(map(len, ours)) < sum(block.packets for block in blocks)


def test_f1_counts_misses_as_errors() -> None:
    rng = np.random.default_rng(1)
    true, said = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    assert weighted_f1(true, said, 4) == pytest.approx(f1_score(true, said, average="weighted"))
    missed = np.where(rng.random(500) < 0.5, MISS, true)
    assert weighted_f1(true, missed, 4) == pytest.approx(
        f1_score(true, missed, average="weighted", labels=[0, 1, 2, 3])
    )
    assert weighted_f1(true, true, 4) == 1.0


def test_answers_tell_misses_repeats_and_contradictions() -> None:
    def arrival(flow: int, label: str, at_ns: int = 50, **more: object) -> tuple[int, bytes]:
        told = {"flow_id": f"{flow:016x}", "label": label, "final": True, "tier": 1, "event_time_ns": 20}
        return at_ns, encode("Prediction", {**RECORDS["Prediction"], **told, **more})

    found = answers(
        [
            arrival(1, "dns"),
            arrival(2, "dns", final=False),
            arrival(2, "web", 90, tier=2),
            arrival(2, "web", 95, tier=2),
            arrival(3, "unknown"),
            arrival(1, "web", prediction_id="0" * 16),
            arrival(9, "web"),
        ],
        np.array([1, 2, 3, 4], np.uint64),
        ("dns", "web"),
    )
    assert found.said.tolist() == [0, 1, MISS, MISS] and found.misses == 1
    assert found.latency_ns.tolist() == [30, 70, 30, 0] and found.escalated.tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert (found.unknown, found.repeated, found.contradicted, found.strange, found.provisional) == (
        1,
        2,
        1,
        1,
        1,
    )


def test_half_of_each_class_is_trained_on() -> None:
    label = np.repeat([0, 1, 2], [50, 31, 40])
    mine, others = split(label, 1)
    assert sorted([*mine.tolist(), *others.tolist()]) == list(range(121))
    assert np.bincount(label[mine]).tolist() == [25, 16, 20]
    with pytest.raises(InputError, match="too few"):
        split(label[:20], 1)


def test_more_flows_than_addresses_are_refused(tmp_path: Path) -> None:
    options = ServeOptions(rate=100_000, seconds=MOST_FLOWS / 100_000 + 1)
    with pytest.raises(SettingsError, match="a lower --rate"):
        measure(load(environment={}), (), (), options, lambda _: None)


def test_several_runs_are_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run = {
        "workers": 1, "flows_offered_per_s": 999.6, "flows_served_per_s": 990.2, "misses": 3,
        "share_within_16ms": 0.81, "latency_p50_ms": 9.5, "f1": 0.9, "share_escalated": 0.5,
        "cpu_us_per_flow": 100.4,
    }  # fmt: skip
    machine = {"cpu": "any", "cores": 2, "python": "3", "system": "x", "kernel": "y", "load_1min": 1}
    show(machine, [run, {**run, "workers": 2, "latency_p50_ms": None}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "/s" in line]
    told = ["1,000/s", "990/s", "3", "81.0%"]
    assert [line[:5] for line in lines] == [["1", *told], ["2", *told]]


def test_a_capture_without_labels_is_told(tmp_path: Path) -> None:
    capture = tmp_path / "x.pcap"
    done = flowgauge("bench", "serve", str(capture), "--rate", "200", *HASTE)
    assert done.returncode == 3
    assert one_line(done) == (
        f"{capture}: no labels beside it: {tmp_path / 'x.labels.csv'} is missing; --labels names a file"
    )


def test_bench_takes_captures_beside_its_second_word(tmp_path: Path) -> None:
    done = flowgauge("bench", str(tmp_path / "none.pcap"), "--stages", "decode")
    assert done.returncode == 3 and "none.pcap" in one_line(done)
    assert "Usage: flowgauge bench serve" in flowgauge("bench", "serve", "--help").stdout
