from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.broker.embedded import EmbeddedBroker
from producers.config import BusSettings, PayloadSettings, ReplaySettings
from producers.first_packets import Selection
from producers.labels import COLUMNS, read_labels
from producers.probes import ProbeSpec, parse_probes
from producers.replay import Replay, ReplayFailed, ReplayOptions, run_replay
from producers.summary import ReplaySummary
from schemas.codec import decode
from schemas.errors import BusError, InputError, SettingsError
from schemas.flow_key import flow_id_of, format_flow_id, parse_flow_id, partition_of, probe_hash_of
from schemas.packets import PacketBatch
from tests.producers.fakes import FakeSink, ManualClock, Message
from tests.producers.frames import Record, ethernet, ip4, pcap, udp

PARTITIONS = 4
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


def capture(
    path: Path, times_ns: Sequence[int], flows: int = 5, start_ns: int = START_NS, *, swap: bool = False
) -> str:
    """Write a capture: packet i, ``times_ns[i]`` after the start, is of flow ``i % flows`` and 28 + i octets."""
    records = [
        Record(ethernet(ip4(udp(1000 + i % flows, 53, bytes(i)), protocol=17)), start_ns + time)
        for i, time in enumerate(times_ns)
    ]
    if swap:
        records.append(Record(ethernet(b"\0" * 30, kind=0x0806), start_ns))
    path.write_bytes(pcap(records, nanoseconds=True))
    return str(path)


def every(step_ns: int, count: int) -> list[int]:
    return [step_ns * i for i in range(count)]


def replayed(
    captures: Sequence[str],
    *,
    sink: FakeSink | None = None,
    clock: ManualClock | None = None,
    stop: threading.Event | None = None,
    labels: str | None = None,
    speed: float | None = None,
    loops: int = 1,
    names: Sequence[str] = (),
    selection: Selection | None = None,
    payloads: PayloadSettings | None = None,
    **settings: Any,
) -> tuple[FakeSink, ReplaySummary]:
    clock = clock or ManualClock()
    sink = sink or FakeSink(clock)
    options = ReplayOptions(
        speed,
        loops,
        labels,
        ReplaySettings.model_validate({"telemetry_interval_s": 0, **settings}),
        payloads=payloads or PayloadSettings(),
        selection=selection,
    )
    table = read_labels(labels) if labels else None
    run = Replay(
        parse_probes(captures, names), BusSettings(partitions=PARTITIONS), options, sink, table,
        clock=clock, stop=stop,
    )  # fmt: skip
    return sink, run.run()


def octets(batches: Sequence[PacketBatch]) -> list[int]:
    return [int(o) for batch in batches for o in batch.columns["octets"]]


def times(batches: Sequence[PacketBatch]) -> list[int]:
    return sorted(int(t) for batch in batches for t in batch.columns["time_ns"])


def check_identity(batches: Sequence[PacketBatch]) -> None:
    """Every (probe, epoch) numbers its batches without gaps and ends every partition once, with nothing after."""
    lives: dict[tuple[str, int], dict[int, list[PacketBatch]]] = {}
    for batch in batches:
        lives.setdefault((batch.probe, batch.epoch), {}).setdefault(batch.partition, []).append(batch)
    for partitions in lives.values():
        assert sorted(partitions) == list(range(PARTITIONS))
        for mine in partitions.values():
            assert [b.sequence for b in mine] == list(range(len(mine)))
            assert [b.end_of_stream for b in mine] == [False] * (len(mine) - 1) + [True]
            assert mine[-1].packets == 0
            assert all(b.replayed and b.partitions == PARTITIONS for b in mine)


def check_sums(summary: ReplaySummary, sink: FakeSink) -> None:
    batches = sink.batches()
    assert summary.total("packets_sent") == sum(b.packets for b in batches)
    assert summary.packets_acked + summary.packets_failed + summary.packets_pending == sum(
        b.packets for b in batches
    )
    assert summary.total("batches") + summary.end_marks == len(batches)
    assert summary.total("batches") == sum(not b.end_of_stream for b in batches)
    assert summary.messages_sent == len(sink.messages)
    assert summary.message_bytes == sum(len(m.value) for m in sink.messages)
    for name, probe in summary.probes.items():
        mine = [b for b in batches if b.probe == name]
        assert probe.packets_read == probe.packets_accepted + sum(probe.packets_skipped.values())
        assert probe.packets_accepted == probe.packets_sent + probe.packets_left_out + probe.packets_unsent
        assert probe.octets == sum(octets(mine))
        for p in range(PARTITIONS):
            of_p = [b for b in mine if b.partition == p and not b.end_of_stream]
            assert probe.packets_by_partition[p] == sum(b.packets for b in of_p)
            assert probe.batches_by_partition[p] == len(of_p)


def test_all_packets_arrive_once_in_order_and_the_sums_match(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 700), swap=True)
    sink, summary = replayed([path], batch_packets=64, block_packets=100)
    batches = sink.batches()
    check_identity(batches)
    check_sums(summary, sink)
    assert sorted(octets(batches)) == [28 + i for i in range(700)]
    for p in range(PARTITIONS):
        mine = octets([b for b in batches if b.partition == p])
        assert mine == sorted(mine)
    assert all(b.observation_point == "a.pcap" and b.probe == "replay" for b in batches)
    assert summary.packets_skipped == {"not_ip": 1}
    assert summary.packets_acked == summary.total("packets_accepted") == 700
    assert summary.total("packets_unsent") == 0
    assert summary.as_dict()["packets"]["read"] == 701


def test_full_speed_sends_the_same_bytes_each_time_but_for_the_clock(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 300))
    first, _ = replayed([path], batch_packets=32)
    second, _ = replayed([path], batch_packets=32, block_packets=7)
    assert sorted(m.value for m in first.messages) == sorted(m.value for m in second.messages)


@pytest.mark.parametrize("rebase", ["now", "keep"])
def test_times_are_moved_by_one_offset_or_kept(tmp_path: Path, rebase: str) -> None:
    path = capture(tmp_path / "a.pcap", [0, 5, 3, 900])
    clock = ManualClock()
    sink, _ = replayed([path], clock=clock, rebase=rebase)
    start = clock.start_ns if rebase == "now" else START_NS
    assert times(sink.batches()) == [start, start + 3, start + 5, start + 900]


def test_each_loop_goes_on_in_time_as_an_epoch_of_its_own(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [0, 10 * MS, 4 * MS])
    sink, summary = replayed([path], loops=3, rebase="keep")
    check_identity(sink.batches())
    check_sums(summary, sink)
    epochs = sorted({b.epoch for b in sink.batches()})
    assert len(epochs) == summary.loops == 3
    by_epoch = [times([b for b in sink.batches() if b.epoch == epoch]) for epoch in epochs]
    assert by_epoch[0] == [START_NS, START_NS + 4 * MS, START_NS + 10 * MS]
    for earlier, later in itertools.pairwise(by_epoch):
        assert later[0] > earlier[-1]
        assert np.array_equal(np.diff(later), np.diff(earlier))


def test_several_captures_of_one_probe_follow_each_other_and_name_their_batches(tmp_path: Path) -> None:
    one = capture(tmp_path / "one.pcap", every(MS, 20))
    two = capture(tmp_path / "two.pcap", every(MS, 30), start_ns=START_NS + 50 * MS)
    sink, summary = replayed([one, two])
    check_identity(sink.batches())
    check_sums(summary, sink)
    by_point = {
        point: sum(b.packets for b in sink.batches() if b.observation_point == point)
        for point in ("one.pcap", "two.pcap")
    }
    assert by_point == {"one.pcap": 20, "two.pcap": 30}
    span = times(sink.batches())
    assert span[-1] - span[0] == 79 * MS


def test_several_probes_share_the_offset_and_take_turns_by_event_time(tmp_path: Path) -> None:
    early = capture(tmp_path / "early.pcap", every(MS, 40))
    late = capture(tmp_path / "late.pcap", every(MS, 40), start_ns=START_NS + 10 * MS)
    sink, summary = replayed([f"b={late}", f"a={early}"], batch_packets=1, block_packets=4)
    check_identity(sink.batches())
    check_sums(summary, sink)
    order = [b.probe for b in sink.batches() if not b.end_of_stream]
    assert order[:8] == ["a"] * 8
    assert sorted(order) == ["a"] * 40 + ["b"] * 40
    assert set(order[12:40]) == {"a", "b"}
    first = {p: times([b for b in sink.batches() if b.probe == p])[0] for p in "ab"}
    assert first["b"] - first["a"] == 10 * MS


@pytest.mark.parametrize("speed", [1.0, 2.0, 0.5])
def test_a_paced_packet_leaves_when_due_and_at_most_the_linger_later(tmp_path: Path, speed: float) -> None:
    offsets = [*every(MS // 4, 200), *[60 * MS + t for t in every(9 * MS, 10)]]
    path = capture(tmp_path / "a.pcap", offsets)
    clock = ManualClock()
    sink, summary = replayed([path], clock=clock, speed=speed, linger_ms=4, batch_packets=16)
    check_identity(sink.batches())
    check_sums(summary, sink)
    lateness = []
    for message, batch in zip(sink.messages, sink.batches(), strict=True):
        for time_ns in batch.columns["time_ns"]:
            due_ns = clock.start_ns + int((int(time_ns) - clock.start_ns) / speed)
            lateness.append(message.wall_ns - due_ns)
    assert min(lateness) >= 0, "nothing leaves before its time"
    assert max(lateness) <= 4 * MS + 2
    assert summary.late_max_ns <= 4 * MS + 2
    assert max(b.packets for b in sink.batches()) > 1, "packets due close together share a batch"


def test_a_sleepy_machine_delays_packets_but_loses_none(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 100))
    clock = ManualClock(overshoot_ns=20 * MS)
    sink, summary = replayed([path], clock=clock, speed=1.0)
    check_sums(summary, sink)
    assert sum(b.packets for b in sink.batches()) == 100
    assert 20 * MS <= summary.late_max_ns <= 46 * MS


def test_a_long_silence_is_slept_through_only_as_far_as_allowed(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [0, 10**12])
    clock = ManualClock()
    sink, _ = replayed([path], clock=clock, speed=1.0, max_gap_s=2)
    assert 2 * 10**9 <= clock.passed_ns < 2.1 * 10**9
    span = times(sink.batches())
    assert span[1] - span[0] == 10**12, "event time is not touched"


@pytest.mark.parametrize("speed", [None, 1.0])
def test_stopping_drains_marks_the_end_and_accounts_for_the_rest(tmp_path: Path, speed: float | None) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 900))
    stop = threading.Event()
    clock = ManualClock()
    sink = FakeSink(clock)

    def stop_after_three(message: Message) -> None:
        if len(sink.messages) == 3:
            stop.set()

    sink.on_produce = stop_after_three
    _, summary = replayed(
        [path], sink=sink, clock=clock, stop=stop, speed=speed, loops=2, batch_packets=20, block_packets=200
    )
    check_identity(sink.batches())
    check_sums(summary, sink)
    assert summary.interrupted
    assert summary.loops == 1
    assert 0 < summary.total("packets_sent") < 900
    assert summary.packets_acked == summary.total("packets_sent")


def truth(tmp_path: Path, rows: Sequence[tuple[int, int, int, str]], start_ns: int = START_NS) -> str:
    """Write labels: (source port, start, end, label) of flows that ``capture`` makes."""
    path = tmp_path / "truth.csv"
    lines = [
        f"10.0.0.1,10.0.0.2,{port},53,17,{start_ns + start},{start_ns + end},{label}"
        for port, start, end, label in rows
    ]
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize("speed", [None, 1.0])
def test_labels_carry_the_ids_of_the_flows_replayed(tmp_path: Path, speed: float | None) -> None:
    path = capture(tmp_path / "a.pcap", every(100 * MS, 40), flows=2)
    labels = truth(tmp_path, [(1000, 0, 3_800 * MS, "dns"), (1001, 100 * MS, 500 * MS, "doh")])
    sink, summary = replayed([path], labels=labels, speed=speed, loops=2, label_delay_s=0.5, names=["gate"])
    check_identity(sink.batches())
    records = [(decode("Label", m.value), m) for m in sink.messages if m.topic == "labels"]
    assert [r["label"] for r, _ in records] == ["doh", "dns"] * 2
    assert summary.total("labels") == 4
    seen: dict[int, int] = {}
    for batch in sink.batches():
        for flow, time_ns in zip(batch.columns["flow_index"], batch.columns["time_ns"], strict=True):
            flow_hash = np.uint64(batch.columns["flow_hash"][flow])
            loop_start = seen.get(int(flow_hash) ^ batch.epoch)
            if loop_start is None:
                seen[int(flow_hash) ^ batch.epoch] = int(time_ns)
                flow_id = flow_id_of(flow_hash, probe_hash_of("gate"), int(time_ns))
                assert format_flow_id(flow_id) in {r["flow_id"] for r, _ in records}
    for record, message in records:
        assert message.key == record["flow_id"]
        flow_id = np.uint64(parse_flow_id(record["flow_id"]))
        assert message.partition == partition_of(flow_id, PARTITIONS)
        assert record["probe"] == "gate"
        assert record["source"] == "truth.csv"
        assert record["published_time_ns"] == message.wall_ns
    assert len({r["flow_id"] for r, _ in records}) == 4


def test_a_stopped_replay_sends_no_labels_of_flows_it_has_not_reached(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 900))
    labels = truth(tmp_path, [(1000, 0, 2 * MS, "early"), (1001, 800 * MS, 899 * MS, "late")])
    stop = threading.Event()
    sink = FakeSink()
    sink.on_produce = lambda message: stop.set()
    replayed(
        [path], sink=sink, stop=stop, labels=labels, label_delay_s=0, batch_packets=10, block_packets=100
    )
    found = [decode("Label", m.value)["label"] for m in sink.messages if m.topic == "labels"]
    assert found == ["early"]


def test_a_paced_label_comes_the_delay_after_the_flows_end(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(10 * MS, 300), flows=2)
    labels = truth(tmp_path, [(1001, 10 * MS, 500 * MS, "doh")])
    clock = ManualClock()
    sink, _ = replayed([path], clock=clock, labels=labels, speed=1.0, label_delay_s=1.0)
    (label,) = [m for m in sink.messages if m.topic == "labels"]
    assert 1_500 * MS <= label.wall_ns - clock.start_ns <= 1_515 * MS


def test_messages_that_the_bus_loses_fail_the_replay_with_the_sums_intact(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 200))
    sink = FakeSink()
    sink.fails = lambda message: message.partition == 1
    with pytest.raises(ReplayFailed, match="were not acknowledged") as failure:
        replayed([path], sink=sink)
    summary = failure.value.summary
    check_sums(summary, sink)
    assert summary.packets_failed == sum(b.packets for b in sink.batches() if b.partition == 1) > 0


def test_a_bus_that_refuses_ends_the_replay_and_says_what_was_not_sent(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 400))
    sink = FakeSink()

    def refuse(message: Message) -> None:
        if len(sink.messages) > 4:
            raise BusError("bus x: gone")

    sink.on_produce = refuse
    with pytest.raises(ReplayFailed, match="bus x: gone") as failure:
        replayed([path], sink=sink, batch_packets=10)
    summary = failure.value.summary
    assert summary.total("packets_accepted") == 400
    assert summary.total("packets_unsent") == 400 - summary.total("packets_sent") > 0


def test_a_broken_second_capture_does_not_take_back_the_first(tmp_path: Path) -> None:
    good = capture(tmp_path / "good.pcap", every(MS, 50))
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"no capture at all, only text")
    sink = FakeSink()
    with pytest.raises(InputError, match=r"bad\.pcap"):
        replayed([good, str(bad)], sink=sink)
    check_identity(sink.batches())
    assert sum(b.packets for b in sink.batches()) == 50
    assert sink.outstanding == 0


def test_a_capture_without_packets_still_marks_the_end(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [], swap=True)
    sink, summary = replayed([path], loops=2)
    check_identity(sink.batches())
    assert summary.total("packets_sent") == 0
    assert summary.packets_skipped == {"not_ip": 2}


def test_the_replay_reports_its_cost(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(10 * MS, 350))
    sink, _ = replayed([path], speed=1.0, telemetry_interval_s=1, linger_ms=5)
    records = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert len(records) == 4
    assert {r["stage"] for r in records} == {"replay"}
    assert sum(r["items_in"] for r in records) == sum(r["items_out"] for r in records) == 350
    assert [r["dropped"] for r in records] == [{}] * 4
    assert sum(r["output_bytes"] for r in records) == sum(
        len(m.value) for m in sink.messages if m.topic == "packets"
    )
    assert records[0]["latency_p99_ns"] <= 6 * MS


def test_frames_that_are_no_packets_are_drops_in_its_cost(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 3), swap=True)
    sink, _ = replayed([path], telemetry_interval_s=1)
    records = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert [(r["items_in"], r["items_out"], r["dropped"]) for r in records] == [(4, 3, {"not_ip": 1})]


def test_progress_ends_at_one(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(20 * MS, 100))
    told: list[tuple[int, int, float | None]] = []
    clock = ManualClock()
    run = Replay(
        parse_probes([path]), BusSettings(), ReplayOptions(settings=ReplaySettings(telemetry_interval_s=0)),
        FakeSink(clock), clock=clock, total=Path(path).stat().st_size,
    )  # fmt: skip
    run.on_progress = lambda *told_now: told.append(told_now)
    run.run()
    assert told[-1] == (100, Path(path).stat().st_size, 1.0)
    assert 15 <= len(told) <= 25
    assert [t[0] for t in told] == sorted(t[0] for t in told)


def test_probes_are_named_by_option_or_by_capture(tmp_path: Path) -> None:
    odd = tmp_path / "x=y.pcap"
    odd.write_bytes(b"")
    assert parse_probes(["a", "b"]) == (ProbeSpec("replay", ("a", "b")),)
    assert parse_probes(["a", "b"], ["gate"]) == (ProbeSpec("gate", ("a", "b")),)
    assert parse_probes(["a", "b", "c"], ["p", "q", "p"]) == (
        ProbeSpec("p", ("a", "c")),
        ProbeSpec("q", ("b",)),
    )
    assert parse_probes(["p=a", "b"]) == (ProbeSpec("p", ("a",)), ProbeSpec("replay", ("b",)))
    assert parse_probes([str(odd)]) == (ProbeSpec("replay", (str(odd),)),)


@pytest.mark.parametrize(
    ("captures", "names", "reason"),
    [
        ([], [], "no capture"),
        (["a", "b", "c"], ["p", "q"], "2 names for 3 captures"),
        (["a"], ["sp ace"], "sp ace"),
        (["-", "p=-"], [], "only once"),
    ],
)
def test_probes_that_make_no_sense_are_refused(captures: list[str], names: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        parse_probes(captures, names)


def test_standard_input_cannot_loop() -> None:
    with pytest.raises(SettingsError, match="--loop"):
        run_replay(parse_probes(["-"]), BusSettings(), ReplayOptions(loops=2))


def test_a_missing_capture_is_told_before_the_bus_is_asked(tmp_path: Path) -> None:
    good = capture(tmp_path / "good.pcap", [0])
    with pytest.raises(InputError, match=r"absent\.pcap"):
        run_replay(
            parse_probes([good, str(tmp_path / "absent.pcap")]),
            BusSettings(bootstrap="127.0.0.1:1"),
            ReplayOptions(),
        )


def bus_of(embedded: EmbeddedBroker, **more: Any) -> BusSettings:
    return BusSettings.model_validate({"bootstrap": embedded.bootstrap, "partitions": PARTITIONS, **more})


def test_a_replay_into_the_embedded_broker_asks_for_admission_and_is_acknowledged(
    embedded: EmbeddedBroker, tmp_path: Path
) -> None:
    embedded.create_topic("x.packets", PARTITIONS)
    embedded.create_topic("x.telemetry.cost", 1)
    path = capture(tmp_path / "a.pcap", every(MS, 500))
    admitted: list[tuple[str, int, int]] = []
    summary = run_replay(
        parse_probes([path]), bus_of(embedded, topic_prefix="x."), ReplayOptions(speed=None),
        admit=lambda *asked: admitted.append(asked),
    )  # fmt: skip
    assert summary.packets_acked == 500
    assert summary.messages_acked == summary.messages_sent == len(admitted) + 1
    assert {topic for topic, _, _ in admitted} == {"x.packets"}
    assert {partition for _, partition, _ in admitted} == set(range(PARTITIONS))


@pytest.mark.parametrize(
    ("topics", "reason"),
    [
        ({}, "there is no topic packets"),
        ({"packets": 3}, "topic packets has 3 partitions, not 4"),
        ({"packets": 4}, "there is no topic labels"),
        ({"packets": 4, "labels": 4}, "there is no topic telemetry.cost"),
    ],
)
def test_topics_that_do_not_fit_are_told_before_anything_is_sent(
    embedded: EmbeddedBroker, tmp_path: Path, topics: dict[str, int], reason: str
) -> None:
    for name, partitions in topics.items():
        embedded.create_topic(name, partitions)
    path = capture(tmp_path / "a.pcap", [0])
    labels = truth(tmp_path, [(1000, 0, 1, "dns")])
    with pytest.raises(BusError, match=reason):
        run_replay(parse_probes([path]), bus_of(embedded), ReplayOptions(labels=labels))


def test_stopping_while_the_broker_is_waited_for_ends_the_replay(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", [0])
    stop = threading.Event()
    summary = run_replay(
        parse_probes([path]), BusSettings(bootstrap="127.0.0.1:1"), ReplayOptions(),
        stop=stop, on_wait=lambda _: stop.set(),
    )  # fmt: skip
    assert summary.interrupted
    assert summary.loops == summary.messages_sent == 0


def test_real_captures_go_through_whole(shared_data: Path) -> None:
    paths = [str(p) for p in sorted((shared_data / "app").glob("*.pcap*"))[::9]]
    assert paths
    sink, summary = replayed(paths)
    check_identity(sink.batches())
    check_sums(summary, sink)
    assert summary.total("packets_sent") == summary.total("packets_accepted") > 1000


def test_only_the_first_packets_of_each_flow_are_sent_in_every_loop_and_the_others_are_counted(
    tmp_path: Path,
) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 500), swap=True)
    sink, summary = replayed(
        [path], selection=Selection(4), loops=3, block_packets=64, telemetry_interval_s=1, batch_packets=16
    )
    check_identity(sink.batches())
    check_sums(summary, sink)
    assert octets(sink.batches()).count(28 + 19) == 3 and max(octets(sink.batches())) == 28 + 19
    told = summary.as_dict()["packets"]
    assert (told["sent"], told["left_out"], told["unsent"]) == (60, 1440, 0)
    costs = [decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "telemetry.cost"]
    assert sum(c["counters"].get("packets_left_out", 0) for c in costs) == 1440
    assert sum(c["items_in"] - sum(c["dropped"].values()) for c in costs) == 1500


def test_paced_and_in_blocks_of_any_size_the_same_packets_are_left_out(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(7 * MS, 2000))
    chosen = []
    ways: tuple[dict[str, Any], ...] = (
        {}, {"speed": 3.0}, {"block_packets": 7}, {"speed": 1.0, "block_packets": 100},
    )  # fmt: skip
    for how in ways:
        sink, summary = replayed([path], selection=Selection(2), rebase="keep", **how)
        check_sums(summary, sink)
        chosen.append(sorted(octets(sink.batches())))
    # The first two of five flows, and what each has in the fifth, ninth and thirteenth second.
    assert chosen == [chosen[0]] * 4 and len(chosen[0]) == 10 + 15


def test_payloads_are_chosen_among_all_packets(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 300))
    how: dict[str, Any] = {"payloads": PayloadSettings(mode="sample", one_in=1), "rebase": "keep"}
    sink, _ = replayed([path], **how)
    few, summary = replayed([path], selection=Selection(1), **how)
    assert [m.value for m in few.messages if m.topic == "payloads"] == [
        m.value for m in sink.messages if m.topic == "payloads"
    ]
    assert summary.total("packets_sent") == 5


def test_each_probe_of_a_replay_follows_flows_of_its_own(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", every(MS, 100))
    sink, summary = replayed([path, path], names=["a", "b"], selection=Selection(3))
    check_sums(summary, sink)
    assert {name: probe.packets_sent for name, probe in summary.probes.items()} == {"a": 15, "b": 15}
