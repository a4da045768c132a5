"""Captures of the lab against their labels: one made here (root), and the one that ships."""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from infra.lab.app import load_apps
from infra.lab.labels import Flow, label_of, split_flows
from infra.lab.make import make, truth_of
from infra.lab.network import can_make_namespaces
from infra.lab.pcap import Packet, read_capture

DATA = Path(__file__).parents[2] / "infra" / "lab" / "data"


def row_of(flow: Flow, label: str) -> tuple[str, ...]:
    ports = (str(flow.source[1]), str(flow.destination[1]))
    times = (str(flow.start_ns), str(flow.end_ns))
    return (flow.source[0], flow.destination[0], *ports, str(flow.protocol), *times, label)


def rows(path: Path) -> list[tuple[str, ...]]:
    with path.open() as source:
        return [tuple(row) for row in csv.reader(source)][1:]


def namespaces() -> set[str]:
    out = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in out.splitlines() if line.startswith("fg-")}


@pytest.mark.root
def test_a_capture_of_two_applications_holds_their_flows_and_leaves_nothing(tmp_path: Path) -> None:
    why = can_make_namespaces()
    if why is not None:
        pytest.skip(why)
    before = namespaces()
    told: list[str] = []
    apps = load_apps(["rpc", "syslog"])
    summary = make(apps, tmp_path, "two", seconds=4, seed=3, snap_length=100, tell=told.append, clients=2)
    assert namespaces() <= before
    assert (summary.lost, summary.skipped, dict(summary.failures)) == (0, {}, {})
    assert summary.visits["rpc"] >= 2 and summary.visits["syslog"] >= 2

    packets = list(read_capture(tmp_path / "two.pcap.gz"))
    assert len(packets) == summary.packets and max(len(p.frame) for p in packets) == 100
    flows = split_flows(packets)
    truth = truth_of(apps)
    expected = [row_of(flow, label) for flow in flows if (label := label_of(flow, truth)) is not None]
    assert rows(tmp_path / "two.labels.csv") == expected
    # One connection per visit to the RPC servers; a socket of its own for each visit's log lines.
    assert summary.flows == {"rpc": summary.visits["rpc"], "syslog": summary.visits["syslog"]}
    assert all(flow.fins == 3 for flow in flows if label_of(flow, truth) == "rpc")


@pytest.fixture(scope="module")
def shipped() -> list[Packet]:
    return list(read_capture(DATA / "demo.pcap.gz"))


def test_shipped_labels_are_flows_of_the_shipped_capture(shipped: list[Packet]) -> None:
    labels = rows(DATA / "demo.labels.csv")
    truth = truth_of(load_apps())
    flows = split_flows(shipped)
    assert labels == [row_of(flow, label) for flow in flows if (label := label_of(flow, truth)) is not None]


def test_shipped_capture_is_worth_learning_from(shipped: list[Packet]) -> None:
    labels = rows(DATA / "demo.labels.csv")
    counts = Counter(row[-1] for row in labels)
    assert len(shipped) >= 25_000 and len(labels) >= 1_500
    assert len(counts) >= 10 and min(counts.values()) >= 60
    assert max(counts.values()) <= 0.3 * len(labels)
    assert (DATA / "demo.pcap.gz").stat().st_size <= 4 << 20


def test_shipped_capture_is_in_order_and_mixes_all_applications_throughout(shipped: list[Packet]) -> None:
    times = [packet.time_ns for packet in shipped]
    assert times == sorted(times)
    labels = rows(DATA / "demo.labels.csv")
    third_ns = 25 * 10**9
    for third in range(3):
        low_ns = times[0] + third * third_ns
        seen = {row[-1] for row in labels if low_ns <= int(row[5]) < low_ns + third_ns}
        assert seen == {row[-1] for row in labels}


def test_shipped_capture_has_both_ip_versions_and_no_jumbo_frame(shipped: list[Packet]) -> None:
    assert {packet.frame[12:14] for packet in shipped} >= {b"\x08\x00", b"\x86\xdd"}
    assert max(packet.length for packet in shipped) <= 1514
