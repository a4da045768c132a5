from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flowgauge.bench.accounting import Books
from flowgauge.bench.children import Child, output_of
from flowgauge.bench.corpus import GAP_S, Corpus, make_corpus
from flowgauge.bench.machine import describe
from flowgauge.bench.many_flows import hold
from flowgauge.bench.peers import measure_peer, missing
from flowgauge.bench.report import amount
from flowgauge.bench.results import Rate, Result, measure
from flowgauge.bench.run import BenchOptions, bench, parse_stages, run
from flowgauge.bench.stages import first_packets as first_stage
from flowgauge.bench.stages import messages as message_stage
from flowgauge.bench.stages.agent import fold
from flowgauge.bench.stages.encode import kept_blocks, messages
from flowgauge.bench.stages.flows import make_flows
from flowgauge.bench.stages.state import state
from flowgauge.settings import load
from producers.sources.capture import open_capture
from schemas.errors import BusError, InputError, SettingsError
from schemas.packets import decode_packet_batch
from streams.config import StreamsSettings
from streams.plan import Plan
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND
FLOWS = 30


def capture(path: Path, packets: int = 300, start_ns: int = START_NS) -> str:
    """Write a capture of UDP packets, 1 ms apart, each of flow ``i % FLOWS``."""
    frames = [
        Record(ethernet(ip4(udp(1000 + i % FLOWS), protocol=17)), start_ns + i * 1_000_000)
        for i in range(packets)
    ]
    path.write_bytes(pcap(frames, nanoseconds=True))
    return str(path)


def times_of(corpus: Corpus) -> list[int]:
    times: list[int] = []
    for path in corpus.paths:
        with open_capture(str(path)) as opened:
            for block in opened.blocks():
                times += block.time_ns.tolist()
    return times


def test_captures_are_one_run_of_packets_whose_time_goes_on(tmp_path: Path) -> None:
    later = capture(tmp_path / "a.pcap", 100)
    earlier = capture(tmp_path / "b.pcap", 50, START_NS - 5000 * SECOND)
    with make_corpus([later, earlier], target_packets=400) as corpus:
        times = times_of(corpus)
        assert (corpus.frames, corpus.passes, corpus.cut) == (450, 3, False)
    assert len(times) == 450
    assert times[:100] == [START_NS + i * 1_000_000 for i in range(100)]
    # Where the next capture or repetition begins, it is silent long enough for every flow to end.
    gaps = np.diff(np.array(times))
    assert np.flatnonzero(gaps > SECOND).tolist() == [99, 149, 249, 299, 399]
    assert gaps[gaps > SECOND].min() >= GAP_S * SECOND
    assert (gaps > 0).all()
    assert not any(path.exists() for path in corpus.paths)


def test_repetition_multiplies_flows_and_keeps_every_packet(tmp_path: Path) -> None:
    with make_corpus([capture(tmp_path / "a.pcap")], target_packets=900) as corpus:
        found = make_flows(corpus, StreamsSettings(), 4)
    assert (found.packets, found.flows, found.rows["flow"]) == (900, 3 * FLOWS, 3 * FLOWS)


def test_captures_of_other_link_types_get_a_file_each(tmp_path: Path) -> None:
    ether = capture(tmp_path / "a.pcap", 20)
    raw = tmp_path / "raw.pcap"
    raw.write_bytes(pcap([Record(ip4(udp(7), protocol=17), START_NS)], link_type=101, nanoseconds=True))
    with make_corpus([ether, str(raw)], target_packets=1) as corpus:
        assert [path.name for path in corpus.paths] == ["link-type-1.pcap", "link-type-101.pcap"]
        assert len(times_of(corpus)) == 21


def test_of_a_large_capture_the_beginning_is_used(tmp_path: Path) -> None:
    with make_corpus([capture(tmp_path / "a.pcap", 9000)], 1, max_octets=1000) as corpus:
        assert corpus.cut
        assert 0 < corpus.frames < 9000


@pytest.mark.parametrize("content", [b"", b"no capture at all", pcap([])])
def test_what_cannot_be_measured_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pcap"), make_corpus([str(path)]):
        pass


def test_messages_hold_every_packet_and_fold_into_rows(tmp_path: Path) -> None:
    with make_corpus([capture(tmp_path / "a.pcap")], target_packets=300) as corpus:
        values = list(messages(kept_blocks(corpus), 4))
    assert sum(decode_packet_batch(value).packets for value in values) == 300
    packets, octets = fold(values, Plan(StreamsSettings()), 4)
    assert packets == 300
    assert octets > FLOWS * 100


def test_a_rate_is_the_median_of_its_repeats() -> None:
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        return 10

    rate = measure(work, min_seconds=0.0, repeats=3)
    assert len(calls) == 3
    assert rate.repeats == 3
    assert rate.least <= rate.value <= rate.most


def test_a_result_leaves_out_what_was_not_measured() -> None:
    result = Result.of_rate("decode", Rate(10.0, 12.0, 9.0, 11.0, 5), bytes_per_packet=3)
    assert result.as_dict() == {
        "name": "decode", "value": 10.0, "unit": "packets/s", "cpu_value": 12.0, "spread": (9.0, 11.0),
        "repeats": 5, "bytes_per_packet": 3,
    }  # fmt: skip
    result.peer, result.peer_value = "dpkt", 4.0
    assert result.as_dict()["ratio"] == 2.5


def test_state_is_measured_at_a_full_table_and_in_a_process_of_its_own() -> None:
    full, many = state(StreamsSettings(), 4, many=5000)
    assert full.name == "state_bytes_per_flow"
    assert full.value == full.details["row_bytes"] + 8 + 8
    assert full.value <= 256
    assert many.name == "rss_mb_5000_flows"
    assert many.details["active_flows"] == 5000
    assert many.value > many.details["state_mb"] > 0


def test_the_worker_that_holds_flows_holds_them_all() -> None:
    found = hold(StreamsSettings(), partitions=3, flows=7001)
    assert found["active_flows"] == 7001


def test_books_balance_only_where_every_packet_is_in_one_record() -> None:
    right = Books(sent=5, acked=5, counted=5, in_flow_records=5, missing=0, duplicate=0, dead_letters=0)
    assert right.balanced
    for wrong in ("acked", "counted", "in_flow_records", "missing", "duplicate", "dead_letters"):
        assert not Books(**{**right.__dict__, wrong: 4}).balanced, wrong


def test_a_whole_run_without_a_bus(tmp_path: Path) -> None:
    options = BenchOptions(
        parse_stages("state, agent,encode,flows,decode"), min_seconds=0.0, corpus_packets=600, many_flows=3000
    )
    found, results = bench(load(environment={}), [capture(tmp_path / "a.pcap")], options)
    assert (found["packets"], found["flows"], found["files"], found["passes"]) == (600, 2 * FLOWS, 1, 2)
    assert found["bytes"] > 600 * 16
    assert [result.name for result in results] == [
        "decode", "flows", "encode", "agent", "state_bytes_per_flow", "rss_mb_3000_flows",
    ]  # fmt: skip
    for result in results[:4]:
        assert result.unit == "packets/s"
        assert result.value > 0
        assert result.cpu_value is not None
        assert result.repeats >= 3
        assert result.peer is None
    json.dumps([result.as_dict() for result in results])


def test_small_messages_are_measured_with_a_pause_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_stage, "MESSAGES", 5)
    results = message_stage.messages(StreamsSettings())
    assert [result.name for result in results] == [
        "message_packets_encode", "message_packets_decode", "message_packets_to_rows",
        "message_rows_encode", "message_rows_decode",
    ]  # fmt: skip
    for result in results:
        assert result.value > 0
        assert result.details["without_pause_us"] > 0
        assert result.details["messages"] == 5


def test_the_choice_of_first_packets_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_stage, "_BLOCKS", 2)
    options = BenchOptions(parse_stages("first_packets"), min_seconds=0.0, corpus_packets=600)
    _, results = bench(load(environment={}), [capture(tmp_path / "a.pcap")], options)
    assert [result.name for result in results] == ["first_packets", "first_packets_many_flows"]
    for result in results:
        assert result.value > 0 and result.unit == "ns/packet"
        assert 0 <= result.details["left_out"] < 1


def run_command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowgauge", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", 2000)
    done = run_command([path, "--stages", "decode", "--min-seconds", "0", "--json"])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"machine", "capture", "results"}
    assert found["machine"]["cores"] >= 1
    assert found["capture"]["captures"] == [path]
    assert [result["name"] for result in found["results"]] == ["decode"]


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    done = run_command([capture(tmp_path / "a.pcap", 2000), "--stages", "encode", "--min-seconds", "0"])
    assert done.returncode == 0, done.stderr
    assert "encode" in done.stdout
    assert "bytes a packet" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--stages", "decode,nonsense"], 2, "choose from decode,flows,encode,agent,bus,state"),
        (["/nowhere/x.pcap", "--stages", "decode"], 3, "/nowhere/x.pcap: cannot be read"),
        (["-", "--stages", "decode"], 3, "standard input"),
    ],
)
def test_errors_are_one_line(arguments: list[str], code: int, words: str) -> None:
    done = run_command(arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert words in done.stderr.splitlines()[-1]


def test_unknown_stages_are_refused() -> None:
    with pytest.raises(SettingsError, match="nonsense"):
        parse_stages("nonsense")


def test_missing_peers_are_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = BenchOptions(("decode",), peers=True, min_seconds=0.0, corpus_packets=100)
    _, results = bench(load(environment={}), [capture(tmp_path / "a.pcap")], options)
    assert [result.peer for result in results] == [None]
    said = capsys.readouterr().err
    assert "nfstream and dpkt not installed, so not measured: pip install 'flowgauge[peers]'" in said


@pytest.mark.parametrize("peer", ["nfstream", "dpkt"])
def test_a_peer_reads_the_same_packets(tmp_path: Path, peer: str) -> None:
    if missing([peer]) and not os.environ.get("FLOWGAUGE_CI"):
        pytest.skip(f"{peer} is not installed (pip install 'flowgauge[peers]')")
    with make_corpus([capture(tmp_path / "a.pcap")], target_packets=600) as corpus:
        command = [sys.executable, "-m", "flowgauge.bench.peers", peer, *map(str, corpus.paths)]
        assert json.loads(output_of(command))["packets"] == 600
        assert measure_peer(peer, corpus).value > 0


def test_a_child_that_fails_is_told_with_its_last_words() -> None:
    script = "import sys; print('first\\nsecond', file=sys.stderr); sys.exit(3)"
    with (
        pytest.raises(BusError, match="demo ended with code 3: second"),
        Child("demo", [sys.executable, "-c", script]) as child,
    ):
        child.wait(60)


def test_a_child_is_gone_with_its_context() -> None:
    with Child("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        assert child.running
    assert not child.running


def test_the_machine_is_described_in_plain_values() -> None:
    found = json.loads(json.dumps(describe()))
    assert {"cpu", "cores", "memory_mb", "kernel", "python"} <= set(found)


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (253.0, "253"), (12_345.0, "12.3 k"), (5e6, "5 M"), (2.5e9, "2.5 G")]
)
def test_amounts_are_short(value: float | None, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(("accounted", "code"), [(True, 0), (False, 1)])
def test_packets_not_accounted_for_are_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], accounted: bool, code: int
) -> None:
    result = Result("bus", 1.0, "packets/s", details={"accounted": accounted})
    monkeypatch.setattr("flowgauge.bench.run.bench", lambda *_: ({}, [result]))
    assert run(load(environment={}), [], BenchOptions(), as_json=True) == code
    assert ("not every packet" in capsys.readouterr().err) == (not accounted)
