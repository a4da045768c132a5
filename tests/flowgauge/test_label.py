"""``flowgauge label`` and ``flowgauge labels``: nDPI's labels joined with our flows, and labels onto the bus."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from flowgauge import label_run, outcome
from flowgauge.cli import invoke
from flowgauge.labelling import LabelRow, OurFlow, join
from flowgauge.ndpi import NdpiFlow, join_key, plain
from infra.broker.embedded import EmbeddedBroker
from producers.labels import COLUMNS, read_labels
from schemas.codec import decode
from schemas.community_id import address_bytes
from schemas.errors import InputError

MS = 1_000_000
A, B = (address_bytes(text)[0] for text in ("192.0.2.1", "198.51.100.7"))
KEY = join_key(A, 40_000, B, 443, 6)


def ours(start_ms: float, end_ms: float, flow_id: int = 1, source: bytes = A, port: int = 40_000) -> OurFlow:
    return OurFlow(flow_id, source, B, port, 443, 6, 4, round(start_ms * MS), round(end_ms * MS))


def theirs(first_ms: int, last_ms: int, label: str = "TLS", guessed: bool = False) -> NdpiFlow:
    return NdpiFlow(KEY, first_ms, last_ms, label, guessed)


def fate(flow: OurFlow, *ndpi: NdpiFlow, guesses: bool = False) -> tuple[str, list[tuple[str, bool]]]:
    found = join([flow], ndpi, guesses)
    counts = found.counts
    assert counts["flows"] == 1
    assert counts["ndpi_flows"] == len(ndpi)
    (what,) = (n for n in ("labelled", "unknown", "guessed", "ambiguous", "unmatched") if counts[n])
    return what, [(row.label, row.guessed) for row in found.rows]


def test_both_directions_and_all_icmp_types_have_one_key() -> None:
    assert join_key(B, 443, A, 40_000, 6) == KEY
    assert join_key(A, 40_000, B, 443, 17) != KEY
    assert join_key(A, 443, B, 40_000, 6) != KEY
    assert join_key(A, 8, B, 0, 1) == join_key(B, 0, A, 8, 1) == join_key(A, 3, B, 3, 1)
    assert join_key(A, 135, B, 136, 58) == join_key(B, 0, A, 0, 58)


def test_flows_are_joined_where_their_times_meet() -> None:
    flow = ours(1000.9, 2000.9)
    assert fate(flow, theirs(1000, 2000)) == ("labelled", [("TLS", False)])
    assert fate(flow, theirs(2001, 3000)) == ("labelled", [("TLS", False)])
    assert fate(flow, theirs(2002, 3000)) == ("unmatched", [])
    assert fate(flow, theirs(0, 999)) == ("labelled", [("TLS", False)])
    assert fate(flow, theirs(0, 998)) == ("unmatched", [])
    assert fate(ours(1000, 2000, source=address_bytes("192.0.2.9")[0]), theirs(1000, 2000)) == (
        "unmatched",
        [],
    )
    assert fate(ours(1000, 2000, port=40_001), theirs(1000, 2000)) == ("unmatched", [])


def test_what_is_known_beats_guesses_and_what_differs_is_left_out() -> None:
    flow = ours(1000, 2000)
    assert fate(flow) == ("unmatched", [])
    assert fate(flow, theirs(1000, 2000, "Unknown")) == ("unknown", [])
    assert fate(flow, theirs(1000, 2000, "Unknown", True)) == ("unknown", [])
    guess, sure = theirs(1000, 1500, "HTTP", True), theirs(1600, 2000, "TLS")
    assert fate(flow, guess) == ("guessed", [])
    assert fate(flow, guess, guesses=True) == ("labelled", [("HTTP", True)])
    for guesses in (False, True):
        assert fate(flow, guess, sure, guesses=guesses) == ("labelled", [("TLS", False)])
        assert fate(flow, sure, theirs(1000, 1500, "SSH"), guesses=guesses) == ("ambiguous", [])
        assert fate(flow, sure, theirs(1000, 1500)) == ("labelled", [("TLS", False)])
    assert fate(flow, guess, theirs(1700, 1900, "DNS", True), guesses=True) == ("ambiguous", [])


def test_one_of_theirs_labels_all_of_ours_that_it_spans_and_what_is_left_is_counted() -> None:
    flows = [ours(3000, 4000, 2), ours(1000, 2000, 1), ours(9000, 9500, 3)]
    found = join(flows, [theirs(1000, 4000), theirs(20_000, 20_001)], guesses=False)
    assert [(row.flow_id, row.start_ns) for row in found.rows] == [(1, 1000 * MS), (2, 3000 * MS)]
    assert found.counts == Counter(flows=3, labelled=2, unmatched=1, ndpi_flows=2, ndpi_unmatched=1)


def row(label: str = "TLS", guessed: bool = False) -> LabelRow:
    return LabelRow(1, "192.0.2.1", "198.51.100.7", 40_000, 443, 6, 1000, 2000, label, guessed)


def test_a_labels_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    label_run.write_labels(path, [row(), row('with "quotes", and commas', True)])
    assert [list(r.values()) for r in csv.DictReader(path.open())] == [
        ["192.0.2.1", "198.51.100.7", "40000", "443", "6", "1000", "2000", "TLS", "payload"],
        [
            "192.0.2.1",
            "198.51.100.7",
            "40000",
            "443",
            "6",
            "1000",
            "2000",
            'with "quotes", and commas',
            "guess",
        ],
    ]
    assert sorted(read_labels(str(path)).label) == ["TLS", 'with "quotes", and commas']
    before = path.read_text()

    def broken() -> Any:
        yield row()
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"labels\.csv: cannot be written: No space left on device"):
        label_run.write_labels(path, broken())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"nowhere/labels\.csv: cannot be written: No such file"):
        label_run.write_labels(tmp_path / "nowhere" / "labels.csv", [])


def test_compressed_captures_are_expanded_as_far_as_they_go(tmp_path: Path) -> None:
    raw = np.random.default_rng(1).bytes(3_000_000)
    whole, cut = tmp_path / "whole.gz", tmp_path / "cut.gz"
    whole.write_bytes(gzip.compress(raw))
    cut.write_bytes(gzip.compress(raw)[:-1000])
    with plain(str(whole)) as path:
        assert path.read_bytes() == raw
    assert not path.exists()
    with plain(str(cut)) as path:
        part = path.read_bytes()
    assert 0 < len(part) < len(raw)
    assert raw.startswith(part)
    (tmp_path / "plain").write_bytes(raw)
    with plain(str(tmp_path / "plain")) as path:
        assert path == tmp_path / "plain"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = outcome.run(lambda: invoke(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_labels_fit_the_flow_records_of_the_same_capture(
    demo_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nfstream")
    out = tmp_path / "labels.csv"
    code, told, err = run(capsys, "label", str(demo_capture), "-o", str(out), "--json")
    assert (code, err) == (0, "")
    counts = json.loads(told)
    fates = ("labelled", "unknown", "guessed", "ambiguous", "unmatched")
    assert counts["flows"] == sum(counts[name] for name in fates)
    assert counts["labelled"] > 0.75 * counts["flows"]
    labelled = list(csv.DictReader(out.open()))
    assert len(labelled) == counts["labelled"] == sum(counts["labels"].values())
    assert run(capsys, "flows", str(demo_capture), "-o", str(tmp_path / "flows.csv"))[0] == 0
    places = COLUMNS[:-2]
    flows = Counter(tuple(r[c] for c in places) for r in csv.DictReader((tmp_path / "flows.csv").open()))
    assert Counter(tuple(r[c] for c in places) for r in labelled) <= flows
    # The lab knows what it made: nDPI sees the same.
    table = {tuple(r[c] for c in places): r["label"] for r in labelled}
    with demo_capture.with_name("demo.labels.csv").open() as file:
        truth = {tuple(r[c] for c in places): r["label"] for r in csv.DictReader(file)}
    dns = [table[place] for place, label in truth.items() if label == "dns" and place in table]
    assert len(dns) > 20
    assert set(dns) == {"DNS", "MDNS"}


REFUSED = [
    (["x.pcap"], "nowhere to put the labels", 2),
    (["x.pcap", "--bus", "h:1", "-o", "l.csv"], "--bus needs --probe", 2),
    (["-", "-o", "l.csv"], "standard input cannot be read twice", 2),
    (["x.pcap", "--probe", "no good"], "--probe 'no good'", 2),
    (["missing.pcap", "-o", "l.csv"], "missing.pcap: ", 3),
    (["text.pcap", "-o", "l.csv"], "text.pcap: is neither a pcap nor a pcapng", 3),
]


@pytest.mark.parametrize(("arguments", "told", "exit_code"), REFUSED)
def test_what_cannot_be_labelled_is_told_in_one_line(
    arguments: list[str],
    told: str,
    exit_code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pcap").write_text("hello, this is no capture")
    pytest.importorskip("nfstream")
    code, _, err = run(capsys, "label", *arguments)
    assert (code, err.count("\n")) == (exit_code, 1)
    assert told in err
    assert not (tmp_path / "l.csv").exists()


def test_without_nfstream_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nfstream", "nfstream.engine", "nfstream.engine.engine"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run(capsys, "label", "x.pcap", "-o", "l.csv")
    assert code == 2
    assert err.count("\n") == 1
    assert "pip install 'flowgauge[label]'" in err


FILE = """source_address,destination_address,source_port,destination_port,protocol,start_ns,end_ns,label
192.0.2.1,198.51.100.7,40000,443,6,1000,2000,web
2001:db8::2,2001:db8::1,53,40001,17,500,600,dns
"""
BUS = ("--set", "bus.partitions=4", "--set", "bus.connect_timeout_s=1")


def published(broker: EmbeddedBroker) -> list[dict[str, Any]]:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "t", "log_level": 0, "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition("labels", p, 0) for p in range(4)])
    records, ends = [], 0
    while ends < 4:
        message = consumer.poll(10)
        assert message is not None
        if message.error():
            ends += 1
        else:
            record = decode("Label", message.value())
            assert message.key().decode() == record["flow_id"]
            assert message.partition() == int(record["flow_id"], 16) >> 62
            records.append(record)
    consumer.close()
    return sorted(records, key=lambda r: int(r["start_ns"]))


def test_a_labels_file_goes_onto_the_bus(
    embedded: EmbeddedBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded.create_topic("labels", 4)
    path = tmp_path / "truth.csv"
    path.write_text(FILE)
    where = ("--bus", embedded.bootstrap, "--probe", "gate", *BUS)
    code, out, err = run(capsys, "labels", str(path), *where, "--offset-ns", "7", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "file": str(path), "probe": "gate", "rows": 2, "labels_published": 2, "labels_acknowledged": 2,
    }  # fmt: skip
    records = published(embedded)
    assert [(r["label"], r["start_ns"], r["source"], r["probe"]) for r in records] == [
        ("dns", 507, "truth.csv", "gate"),
        ("web", 1007, "truth.csv", "gate"),
    ]
    ids = [f"{flow:016x}" for flow in read_labels(str(path)).flow_ids("gate", 7).tolist()]
    assert [r["flow_id"] for r in records] == ids


def test_ndpi_labels_go_onto_the_bus_with_the_ids_of_the_flow_records(
    embedded: EmbeddedBroker, demo_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nfstream")
    embedded.create_topic("labels", 4)
    where = ("--bus", embedded.bootstrap, "--probe", "gate", *BUS)
    code, out, err = run(capsys, "label", str(demo_capture), *where, "-o", str(tmp_path / "l.csv"), "--json")
    assert (code, err) == (0, "")
    records = published(embedded)
    assert json.loads(out)["labels_acknowledged"] == len(records) > 1000
    table = read_labels(str(tmp_path / "l.csv"))
    ids = {f"{flow:016x}" for flow in table.flow_ids("gate").tolist()}
    assert {r["flow_id"] for r in records} == ids
    assert {r["source"].split(" ")[0] for r in records} == {"nDPI"}


BAD = [
    ("192.0.2.1,198.51.100.7,40000,443,6,2000,1000,web\n", "truth.csv: line 4: end_ns is before start_ns"),
    ("192.0.2.1,198.51.100.7,70000,443,6,1,2,web\n", "truth.csv: line 4: source_port '70000' is not"),
    ("192.0.2.1,198.51.100.7,1,443,6,1,2,\n", "truth.csv: line 4: no label"),
]


@pytest.mark.parametrize(("line", "told"), BAD)
def test_a_bad_line_is_named_and_nothing_is_published(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(FILE + line)
    # The file is read before the bus is looked for.
    code, _, err = run(capsys, "labels", str(path), "--bus", "127.0.0.1:1", "--probe", "gate", *BUS)
    assert code == 3
    assert told in err


@pytest.mark.parametrize(
    ("flags", "told", "exit_code"),
    [
        (("--probe", "gate", "--offset-ns", "-501"), "--offset-ns -501: moves a flow", 2),
        (("--probe", "gate", "--offset-ns", str(2**62)), "moves a flow", 2),
        (("--probe", ""), "--probe ''", 2),
        ((), "--probe", 2),
        (("--probe", "gate"), "127.0.0.1:1: no broker answered", 4),
    ],
)
def test_labels_that_cannot_be_published(
    flags: tuple[str, ...], told: str, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(FILE)
    code, _, err = run(capsys, "labels", str(path), "--bus", "127.0.0.1:1", *BUS, *flags)
    assert code == exit_code
    assert told in err
