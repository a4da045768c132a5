"""The resolution task: ladder, player, rate limiter, and a tiny run."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from infra.lab.__main__ import main
from infra.lab.labels import Flow, split_flows
from infra.lab.ladder.app import COLUMNS
from infra.lab.ladder.make import judge_of, make_video
from infra.lab.ladder.player import LONGEST_BUFFER_S, Player
from infra.lab.ladder.rungs import LADDER, SEGMENT_S, segment_octets
from infra.lab.network import can_make_namespaces
from infra.lab.pcap import read_capture
from infra.lab.shaper import LEVELS_BPS, Shaper, made_trace


def test_segments_vary_around_the_rate_of_their_rung() -> None:
    for rung, (_, rate_bps) in enumerate(LADDER):
        sizes = [segment_octets(title, number, rung) for title in range(20) for number in range(20)]
        mean = rate_bps * SEGMENT_S / 8
        assert 0.95 < sum(sizes) / len(sizes) / mean < 1.15
        assert min(sizes) < 0.7 * mean and max(sizes) > 1.4 * mean
    assert segment_octets(3, 4, 2) == segment_octets(3, 4, 2)


def test_a_shaper_serves_at_its_rate_and_drops_what_would_wait_too_long() -> None:
    shaper = Shaper([(0, 8000.0), (10, 80_000.0)], start_s=100.0, queue_s=0.35)
    assert [shaper.leaves_s(100.0, 100) for _ in range(6)] == pytest.approx(
        [100.1, 100.2, 100.3, 100.4, None, None]
    )
    assert shaper.dropped == 2
    assert shaper.leaves_s(105.0, 100) == pytest.approx(105.1)
    assert shaper.leaves_s(110.0, 100) == pytest.approx(110.01)


def test_a_trace_repeats_and_covers_the_run() -> None:
    trace = made_trace("1/0", 60)
    assert trace == made_trace("1/0", 60) != made_trace("1/1", 60)
    times = [at_s for at_s, _ in trace]
    assert times[0] == 0 and times == sorted(times) and times[-1] > 45
    assert all(0.9 * LEVELS_BPS[0] <= rate <= 1.1 * LEVELS_BPS[-1] for _, rate in trace)


def test_the_player_climbs_a_rung_at_a_time_and_falls_at_once() -> None:
    player = Player()
    assert player.next_rung() == 0
    rungs: list[int] = []
    for _ in range(6):
        player.arrived(rungs[-1] if rungs else 0, 10**6, 0.1)  # 80 Mbit/s
        rungs.append(player.next_rung())
    assert rungs == [1, 2, 3, 4, 4, 4]
    for _ in range(3):
        player.arrived(4, 50_000, 1.0)  # 0.4 Mbit/s
    assert player.next_rung() == 0


def test_windows_tell_what_was_shown_and_when_the_picture_stood() -> None:
    player = Player()
    player.advance(1.0)  # nothing has come yet: no stall
    player.arrived(0, 1000, 1.0)
    player.advance(0.5)
    player.arrived(2, 1000, 0.5)
    player.advance(5.0)
    waiting, first, second, third, fourth, stalled = player.windows
    assert (waiting.rung, waiting.stalled_s) == (None, 0.0)
    assert first.played_s == pytest.approx({0: 0.5}) and first.buffer_s == pytest.approx(3.5)
    assert second.rung == 0 and second.played_s == pytest.approx({0: 1.0})
    assert third.played_s == pytest.approx({0: 0.5, 2: 0.5})
    assert fourth.rung == 2 and fourth.played_s == pytest.approx({2: 1.0})
    assert stalled.played_s == pytest.approx({2: 0.5}) and stalled.stalled_s == pytest.approx(0.5)
    player.arrived(1, 1000, 1.0)
    player.advance(1.0)
    assert player.windows[-1].stalled_s == pytest.approx(1.0)  # one segment is too little to go on with


def test_a_full_buffer_makes_the_next_segment_wait() -> None:
    player = Player()
    while not player.is_full:
        player.arrived(0, 1000, 1.0)
    assert LONGEST_BUFFER_S - SEGMENT_S < player.buffer_s <= LONGEST_BUFFER_S


def test_a_flow_is_labelled_with_the_resolution_shown_longest() -> None:
    def row(resolution: str) -> dict[str, str]:
        values = ("7", "10.0.0.1", "10.0.0.2", "5000", "443", "6", "0", "1", resolution, "1", "1", "0", "0")
        return dict(zip(COLUMNS, values, strict=True))

    judge = judge_of([row(""), row("720"), row("240"), row("720")])
    assert judge(Flow(("10.0.0.1", 5000), ("10.0.0.2", 443), 6, 0, 1)) == "720p"
    assert judge(Flow(("10.0.0.1", 5000), ("10.0.0.2", 443), 17, 0, 1)) is None
    assert judge(Flow(("10.0.0.1", 5001), ("10.0.0.2", 443), 6, 0, 1)) is None


@pytest.mark.parametrize(
    "words", [["--sessions", "0"], ["--seconds", "-1"], ["--seconds", "inf"], ["--sessions", "x"]]
)
def test_counts_and_times_that_cannot_be_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["video", "-o", str(tmp_path), *words])
    assert ended.value.code == 2
    assert f"argument {words[0]}: invalid" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["video", "attacks"])
def test_without_root_it_says_so(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main([command, "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("infra.lab: error: the traffic lab needs root")


@pytest.mark.root
def test_a_tiny_run_has_both_transports_and_a_truth_for_each_second(tmp_path: Path) -> None:
    why = can_make_namespaces()
    if why is not None:
        pytest.skip(why)
    pytest.importorskip("aioquic")
    summary = make_video(
        tmp_path, "v", sessions=4, seconds=6, seed=3, snap_length=100, tell=lambda line: None
    )
    assert (summary.lost, dict(summary.failures), dict(summary.made)) == (0, {}, {"video": 4})
    packets = list(read_capture(tmp_path / "v.pcap.gz"))
    assert len(packets) == summary.packets
    flows = {(f.source, f.destination, f.protocol): f for f in split_flows(packets)}
    assert len(flows) == sum(summary.flows.values()) + summary.unlabelled == 4
    with (tmp_path / "v.windows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_session = Counter(row["session"] for row in rows)
    assert set(by_session) == {"0", "1", "2", "3"} and set(by_session.values()) <= {5, 6}
    protocols = set()
    for row in rows:
        ends = [(row[f"{side}_address"], int(row[f"{side}_port"])) for side in ("source", "destination")]
        flow = flows[ends[0], ends[1], int(row["protocol"])]
        protocols.add(flow.protocol)
        assert flow.start_ns - 10**9 <= int(row["start_ns"]) < int(row["end_ns"]) <= flow.end_ns + 10**9
        played_s, stalled_s = float(row["played_s"]), float(row["stalled_s"])
        assert played_s + stalled_s <= 1.001
        assert (row["resolution"] == "") == (played_s == 0)
    assert protocols == {6, 17}
    assert sum(float(row["played_s"]) for row in rows) > 8
