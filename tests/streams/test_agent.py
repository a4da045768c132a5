"""The flows agent without a bus: messages in, messages on a list out."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from producers.config import BusSettings
from schemas.codec import decode, encode
from schemas.errors import BusError
from schemas.features import decode_feature_batch
from schemas.flow_key import partition_of
from schemas.packets import PacketBatch
from streams import checkpoint
from streams.agent import FlowsAgent
from streams.faust_app import Message
from streams.handover import Position, State
from streams.partition import Partition
from tests.producers.fakes import FakeSink
from tests.producers.fakes import Message as Sent
from tests.streams.made import FLOWS, SECOND, START_NS, Made, Row, Run, batch, brisk, columns_of, rows_of

BUS = BusSettings(partitions=4, topic_prefix="x.")
TRAFFIC = [Made(START_NS + i * SECOND // 10, FLOWS[i % 3], i % 2, 60 + i) for i in range(40)]
A_STATE = {"partition": 1, "offset": 0, "layout": "", "part": 0, "parts": 1, "digest": b"", "body": b""}


class Bench:
    """An agent, its sink, and the offset of the next message."""

    def __init__(self) -> None:
        self.sink = FakeSink()
        self.agent = FlowsAgent(brisk(), BUS, self.sink)
        self.offset = 0

    def put(
        self, value: bytes | None, partition: int = 1, offset: int | None = None, drained: bool = True
    ) -> int:
        """Hand a message to the agent, the last at hand where ``drained``; return its offset."""
        at = self.offset if offset is None else offset
        self.agent.on_message(Message("packets", partition, at, b"key", value))
        if drained:
            self.agent.on_drained()
        self.offset = max(self.offset, at + 1)
        return at

    def feed(self, packets: list[Made], sequence: int, **more: Any) -> int:
        made = PacketBatch("p", 1, 1, 4, sequence, 77, columns_of(packets), **more)
        return self.put(made.encode())

    def sent(self, topic: str) -> list[Sent]:
        return [message for message in self.sink.messages if message.topic == f"x.{topic}"]

    def rows(self) -> list[Row]:
        return rows_of(
            decode_feature_batch(m.value) for m in self.sink.messages if m.topic.startswith("x.features.")
        )

    def letters(self) -> list[dict[str, Any]]:
        return [decode("DeadLetter", message.value) for message in self.sent("dead-letters")]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "flowgauge"):
        yield caplog


def test_rows_go_to_their_topic_and_partition(bench: Bench) -> None:
    bench.feed(TRAFFIC, 0, end_of_stream=True, replayed=True)
    alone = Run(bench.agent.plan, 1)
    alone.feed(TRAFFIC, end_of_stream=True, partition=1)
    assert sorted(bench.rows()) == sorted(alone.rows)
    for name in ("early", "deep", "window", "short", "flow"):
        messages = bench.sent(f"features.{name}")
        assert messages
        assert {message.partition for message in messages} == {1}
        for message in messages:
            found = decode_feature_batch(message.value)
            assert (found.representation, found.partition, found.probe) == (name, 1, "p")
            assert (found.source_epoch, found.source_sequence, found.probe_time_ns) == (1, 0, 77)
            assert found.flows_sent_time_ns >= found.flows_received_time_ns > 77
            assert found.replayed
    assert bench.sink.acked_items == 0
    bench.agent.before_commit()()
    assert bench.sink.acked_items == len(alone.rows)


def test_rows_of_messages_at_hand_leave_together(bench: Bench) -> None:
    one_by_one = Bench()
    for at in range(0, 40, 10):
        one_by_one.feed(TRAFFIC[at : at + 10], at // 10)
        value = PacketBatch("p", 1, 1, 4, at // 10, 77, columns_of(TRAFFIC[at : at + 10])).encode()
        bench.put(value, drained=False)
        assert not bench.rows()
    bench.agent.on_drained()
    assert sorted(bench.rows()) == sorted(one_by_one.rows())
    assert len(bench.sink.messages) < len(one_by_one.sink.messages)


def test_no_state_is_saved_without_the_rows_at_hand(bench: Bench) -> None:
    value = PacketBatch("p", 1, 1, 4, 0, 77, columns_of(TRAFFIC)).encode()
    bench.put(value, drained=False)
    bench.agent.before_commit()()
    assert bench.rows()
    assert bench.sink.outstanding == 0


def damaged(**columns: Any) -> bytes:
    """Return a message of the right schema whose columns do not hold together."""
    good = decode("PacketBatch", PacketBatch("p", 1, 1, 4, 0, 0, columns_of(TRAFFIC)).encode())
    return encode("PacketBatch", {**good, **columns})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "0 bytes without the marker"),
        (None, "0 bytes without the marker"),
        (random.Random(0).randbytes(200), "without the marker"),
        (b"\xc3\x01" + bytes(8) + b"x", "schema"),
        (encode("FlowState", A_STATE), "FlowState"),
        (PacketBatch("p", 1, 1, 4, 0, 0, columns_of(TRAFFIC)).encode()[:-9], "PacketBatch"),
        (damaged(time_ns=b"\0" * 8), "time_ns"),
        (damaged(packet_count=41), "are not 41 rows"),
        (damaged(flow_index=np.full(40, 3, np.uint16).tobytes()), "a packet points past the flow directory"),
        (damaged(direction=b"\2" * 40), "a direction other than 0 and 1"),
        (damaged(probe=""), "a batch without the name of its probe"),
        (damaged(partition=4), "partition 4 of 4"),
    ],
)
def test_a_message_that_cannot_be_used_is_set_aside(
    bench: Bench, log: pytest.LogCaptureFixture, value: bytes | None, reason: str
) -> None:
    bench.feed(TRAFFIC[:20], 0)
    at = bench.put(value)
    again = bench.put(value)
    bench.feed(TRAFFIC[20:], 1, end_of_stream=True)
    letters = bench.letters()
    assert [(d["topic"], d["partition"], d["offset"], d["stage"]) for d in letters] == [
        ("x.packets", 1, at, "flows"),
        ("x.packets", 1, again, "flows"),
    ]
    assert (letters[0]["key"], letters[0]["message"]) == (b"key", value or b"")
    assert letters[0]["message_size"] == len(value or b"")
    assert reason in letters[0]["reason"]
    assert bench.agent.counts()["messages_set_aside"] == 2
    (record,) = log.records
    assert record.getMessage() == (
        f"x.packets [1] offset {at} cannot be used and is set aside: {letters[0]['reason']} (more are counted)"
    )
    alone = Run(bench.agent.plan, 1)
    alone.feed(TRAFFIC[:20], partition=1)
    alone.feed(TRAFFIC[20:], end_of_stream=True, partition=1)
    assert sorted(bench.rows()) == sorted(alone.rows)
    assert bench.agent.next_offset == {1: 4}


def test_a_long_message_is_kept_in_part(bench: Bench) -> None:
    bench.put(b"x" * 100_000)
    (letter,) = bench.letters()
    assert (letter["message_size"], letter["message"]) == (100_000, b"x" * 65_536)


def test_a_defect_costs_one_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Partition.apply

    def broken(self: Partition, made: PacketBatch, *times: int) -> Any:
        yield from apply(self, made, *times)
        if made.sequence == 1:
            raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Partition, "apply", broken)
    for sequence in range(3):
        bench.feed(TRAFFIC[sequence * 10 : sequence * 10 + 10], sequence)
    (letter,) = bench.letters()
    assert (letter["offset"], letter["reason"]) == (1, "ZeroDivisionError: a defect")
    assert bench.agent.counts()["messages_set_aside"] == 1
    assert bench.agent.next_offset == {1: 3}
    bench.agent.on_tick({})
    record = decode("CostTelemetry", bench.sent("telemetry.cost")[-1].value)
    assert (record["items_in"], record["items_out"], record["dropped"]) == (30, 20, {"failed": 10})


def test_a_failing_bus_stops_the_agent(bench: Bench) -> None:
    def refuse(message: Sent) -> None:
        raise BusError("no room")

    bench.sink.on_produce = refuse
    with pytest.raises(BusError, match="no room"):
        bench.feed(TRAFFIC, 0)
    with pytest.raises(BusError, match="no room"):
        bench.put(b"poison", offset=1)


def test_unacknowledged_rows_are_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.feed(TRAFFIC, 0)
    monkeypatch.setattr(bench.sink, "flush", lambda timeout_s: 3)
    with pytest.raises(BusError, match="3 messages not acknowledged"):
        bench.agent.before_commit()()


def test_rows_are_on_the_bus_before_the_state_that_tells_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[set[str]] = []

    def flush(timeout_s: float) -> int:
        brought.append({message.topic for message in bench.sink.messages})
        return 0

    monkeypatch.setattr(bench.sink, "flush", flush)
    bench.feed(TRAFFIC, 0)
    bench.agent.before_commit()()
    assert "x.features.early" in brought[0] and "x.flows.state" not in brought[0]
    assert "x.flows.state" in brought[-1]


def test_a_state_is_of_the_moment_before_the_commit_whatever_comes_until_it_is_written(bench: Bench) -> None:
    bench.feed(TRAFFIC[:20], 0)
    at_once = checkpoint.save(bench.agent.partitions[1])
    write = bench.agent.before_commit()
    bench.feed(TRAFFIC[20:], 1)
    assert states(bench) == []
    write()
    ((_, saved),) = states(bench)
    assert (saved["offset"], saved["body"]) == (1, at_once)
    assert bench.agent.counts()["state_saved_bytes"] == len(at_once)


def test_a_batch_that_comes_again_changes_nothing(bench: Bench) -> None:
    bench.feed(TRAFFIC[:20], 0)
    before = bench.rows()
    bench.feed(TRAFFIC[:20], 0)
    value = batch(TRAFFIC[20:], 1, partition=1).encode()
    bench.put(value, offset=0)
    bench.put(value, offset=1)
    assert bench.rows() == before
    counts = bench.agent.counts()
    assert (counts["batches_duplicate"], counts["packets_duplicate"], counts["packets"]) == (1, 20, 20)
    assert counts["messages_redelivered"] == 2


def test_telemetry_adds_up(bench: Bench) -> None:
    bench.feed(TRAFFIC[:30], 0)
    bench.feed(TRAFFIC[:30], 0)
    bench.put(b"poison")
    bench.agent.on_tick({("packets", 1): 5, ("packets", 2): 2})
    bench.agent.on_tick({})
    bench.feed(TRAFFIC[30:], 2, end_of_stream=True)
    bench.agent.hand_over()
    first, last = (decode("CostTelemetry", m.value) for m in bench.sent("telemetry.cost"))
    assert (first["stage"], first["unit"], first["lag_records"]) == ("flows", "packets", 7)
    assert (first["items_in"], first["items_out"], first["dropped"]) == (60, 30, {"duplicate": 30})
    assert (last["items_in"], last["items_out"], last["dropped"]) == (10, 10, {})
    assert first["state_bytes"] > 0
    assert first["latency_p50_ns"] > 0
    counts = bench.agent.counts()
    for name in ("messages_set_aside", "batches_missing", "packets", "rows_flow", "rows_early"):
        assert first["counters"].get(name, 0) + last["counters"].get(name, 0) == counts[name], name
    assert (counts["batches_missing"], counts["messages_set_aside"]) == (1, 1)
    features = sum(len(m.value) for m in bench.sink.messages if m.topic.startswith("x.features."))
    assert first["output_bytes"] + last["output_bytes"] == features


def test_silence_closes_flows_only_where_nothing_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.feed(TRAFFIC, 0)
    now_ns = [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns[0])
    for probe in bench.agent.partitions[1].probes.values():
        probe.heard_ns = 0
    now_ns[0] = 20 * SECOND
    bench.agent.on_tick({("packets", 1): 1})
    assert bench.agent.counts()["rows_flow"] == 0
    bench.agent.on_tick({("packets", 2): 1})
    assert bench.agent.counts()["rows_flow"] == 3


def test_silence_while_the_broker_is_away_is_not_the_probes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns[0])
    bench.feed(TRAFFIC, 0)

    def after(seconds: int, *, away: bool) -> tuple[int, int]:
        now_ns[0] += seconds * SECOND
        bench.agent.on_tick({}, away=away)
        counts = bench.agent.counts()
        return counts["rows_flow"], counts["probe_silences"]

    assert after(1000, away=True) == (0, 0)
    assert after(2, away=False) == (0, 0)
    assert after(20, away=False) == (3, 1)


def states(bench: Bench) -> list[tuple[Sent, dict[str, Any]]]:
    return [(message, decode("FlowState", message.value)) for message in bench.sent("flows.state")]


def test_every_commit_saves_what_is_new(bench: Bench) -> None:
    bench.agent.before_commit()()
    assert states(bench) == []
    bench.feed(TRAFFIC[:20], 0)
    bench.agent.before_commit()()
    bench.agent.before_commit()()
    bench.put(b"poison", partition=2, offset=5)
    bench.agent.before_commit()()
    bench.feed(TRAFFIC[20:], 1)
    bench.agent.hand_over()
    assert [(m.key, m.partition, r["offset"]) for m, r in states(bench)] == [
        ("flowgauge-flows/1/0/0", 1, 1),
        ("flowgauge-flows/2/0/0", 2, 6),
        ("flowgauge-flows/1/1/0", 1, 7),
        ("flowgauge-flows/2/1/0", 2, 6),
    ]
    assert bench.agent.partitions == {}
    assert bench.agent.counts()["packets"] == 40
    saved = states(bench)[2][1]
    back = checkpoint.load(saved["body"], bench.agent.plan, 1, 0)
    assert (back.active, saved["layout"]) == (3, bench.agent.plan.layout)


def test_a_state_goes_on_where_it_was_left(bench: Bench) -> None:
    bench.feed(TRAFFIC[:20], 0)
    bench.agent.hand_over()
    (_, saved) = states(bench)[0]
    heir = Bench()
    state = State(saved["offset"], 0, saved["layout"], saved["body"])
    heir.agent.partitions[1] = heir.agent._restore(1, Position(0, 1), state)
    heir.feed(TRAFFIC[:20], 0)
    heir.feed(TRAFFIC[20:], 1, end_of_stream=True)
    alone = Run(bench.agent.plan, 1)
    alone.feed(TRAFFIC[:20], partition=1)
    alone.feed(TRAFFIC[20:], end_of_stream=True, partition=1)
    assert sorted(bench.rows() + heir.rows()) == sorted(alone.rows)
    counts = heir.agent.counts()
    assert (counts["states_restored"], counts["messages_redelivered"], counts["packets"]) == (1, 1, 20)
    heir.agent.before_commit()()
    assert states(heir)[0][0].key == "flowgauge-flows/1/1/0", (
        "the state gone on from stays until the next is whole"
    )


@pytest.mark.parametrize(
    ("committed", "end", "change", "counter", "told"),
    [
        (8, 9, {}, "states_outdated", "up to offset 8, but one up to 7"),
        (7, 6, {}, "states_unusable", "of a topic that is gone"),
        (7, 9, {"body": b"rubbish"}, "states_unusable", "flow state of partition 1"),
        (7, 9, None, "states_unusable", "up to offset 7, but none"),
        (-1, 9, None, "", ""),
        (0, 9, None, "", ""),
    ],
)
def test_a_state_that_cannot_be_used_is_counted_and_told(
    bench: Bench,
    log: pytest.LogCaptureFixture,
    committed: int,
    end: int,
    change: dict[str, Any] | None,
    counter: str,
    told: str,
) -> None:
    bench.feed(TRAFFIC, 0)
    body = checkpoint.save(bench.agent.partitions[1])
    good = State(7, 0, bench.agent.plan.layout, body)
    heir = Bench()
    state = None if change is None else good._replace(**change)
    restored = heir.agent._restore(1, Position(committed, end), state)
    assert restored.active == 0
    assert dict(heir.agent.totals) == ({counter: 1} if counter else {})
    assert [told in record.getMessage() for record in log.records] == ([True] if told else [])
    assert heir.agent.next_offset == {}


def test_a_state_of_other_features_is_not_taken_over(bench: Bench, log: pytest.LogCaptureFixture) -> None:
    bench.feed(TRAFFIC, 0)
    body = checkpoint.save(bench.agent.partitions[1])
    other = FlowsAgent(brisk(representations=brisk().representations[:2]), BUS, FakeSink())
    restored = other._restore(1, Position(7, 9), State(7, 0, "other", body))
    assert (restored.active, other.totals["states_unusable"]) == (0, 1)
    assert "made with other features or windows" in log.records[0].getMessage()


def test_flows_of_two_probes_meet_on_their_own_topic_and_probes_are_told() -> None:
    sink = FakeSink()
    agent = FlowsAgent(brisk().model_copy(update={"path_join": "early"}), BUS, sink)
    for offset, (probe, late_ns) in enumerate([("north", 0), ("south", 4_000_000)]):
        packets = columns_of([Made(START_NS + late_ns, FLOWS[0])])
        made = PacketBatch(probe, START_NS + offset, 1, 4, 0, 77, packets)
        agent.on_message(Message("packets", 1, offset, b"key", made.encode()))
    assert not sink.messages  # nothing leaves before the last message at hand
    agent.on_drained()
    (sent,) = (message for message in sink.messages if message.topic == "x.features.path")
    path = decode("FlowPath", sent.value)
    assert (path["probe"], path["other_probe"], path["gap_ns"]) == ("north", "south", 4_000_000)
    # It lies where the flow's other records lie.
    (early, *_) = (message for message in sink.messages if message.topic == "x.features.early")
    flow_id = int(decode_feature_batch(early.value).columns["flow_id"][0])
    assert sent.partition == int(partition_of(np.uint64(flow_id), 4)) and sent.key == path["flow_id"]
    agent.on_tick({})
    (told,) = (decode("CostTelemetry", m.value) for m in sink.messages if m.topic == "x.telemetry.cost")
    assert told["counters"]["paths"] == 1
    assert told["gauges"]["probes"] == 2 and "probe_heard_s_north" in told["gauges"]
