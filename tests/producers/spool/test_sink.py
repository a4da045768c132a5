from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.spool.sink import SpoolSink
from producers.spool.syncer import Syncer
from schemas.errors import SettingsError
from tests.producers.spool.fakes import World
from tests.waiting import wait_until

KB = 1024


def value(number: int, size: int = 100) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"x")


def send(sink: SpoolSink, start: int, stop: int, size: int = 100) -> None:
    for number in range(start, stop):
        sink.produce("packets", value(number, size), number % 3, items=10)


def numbers(world: World) -> list[int]:
    return [int.from_bytes(v[:4], "big") for v in world.values()]


def balanced(sink: SpoolSink) -> None:
    assert sink.sent == sink.acked + sink.failed + sink.outstanding + sink.kept


def test_while_the_bus_answers_nothing_touches_the_disk(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path)
    send(sink, 0, 100)
    sink.produce("labels", b"late", key="flow", items=0)
    sink.flush(1)
    assert numbers(world)[:-1] == list(range(100)) and world.arrived[-1].key == "flow"
    assert not sink.counts["spooled_messages"] and sink.spooled_bytes == 0 and not world.told
    assert (sink.acked, sink.acked_items, sink.outstanding) == (101, 1000, 0)
    assert not list(tmp_path.glob("*.spool"))
    sink.close()


def test_what_comes_while_the_bus_is_away_waits_on_disk_and_follows_in_order(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path)
    send(sink, 0, 10)
    sink.check()
    world.up = False
    send(sink, 10, 20)
    assert sink.spooled_bytes == 0
    world.later(sink, 2)
    assert sink.counts["spooled_messages"] == 10, "what has no answer goes to disk too"
    world.now_s += 1
    send(sink, 20, 200)
    assert sink.counts["spooled_messages"] == 190 and sink.age_s > 0
    assert sink.outstanding == sink.sent - sink.acked
    balanced(sink)
    world.up = True
    sink.check()
    send(sink, 200, 300)
    world.later(sink, 2)
    send(sink, 300, 400)
    sink.flush(1)
    assert numbers(world) == list(range(400))
    assert sink.acked == 400 and sink.spooled_bytes == 0 and sink.age_s == 0
    assert sink.counts["drained_packets"] == sink.counts["spooled_packets"]
    assert len(world.told) == 2 and "empty" in world.told[1]
    balanced(sink)


def test_more_than_memory_may_hold_goes_to_disk_at_once(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path, memory_kbytes=1024)
    send(sink, 0, 40, 100 * KB)
    assert 29 <= sink.counts["spooled_messages"] <= 40
    assert sum(b.outstanding for b in world.buses) <= 11
    world.up = True
    for _ in range(20):
        sink.check()
    assert numbers(world) == list(range(40))


def test_everything_goes_to_disk_first_where_that_is_asked_for(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path, after_s=0)
    send(sink, 0, 50)
    sink.check()
    assert sink.counts["spooled_messages"] == 50 and numbers(world) == list(range(50))
    assert sink.spooled_bytes == 0


def test_a_process_that_stops_leaves_what_has_no_answer_to_the_next(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path)
    send(sink, 0, 30)
    assert sink.flush(0) == 0
    assert (sink.kept, sink.outstanding) == (30, 0)
    balanced(sink)
    sink.close()
    world = World()
    sink = world.sink(tmp_path)
    assert sink.counts["recovered_messages"] == 30 and sink.counts["recovered_packets"] == 300
    send(sink, 30, 40)
    world.later(sink, 0.1)
    assert numbers(world) == list(range(40))
    assert (sink.sent, sink.acked) == (10, 10), "what an earlier process sent is none of this one's"
    assert sink.spooled_bytes == 0


def test_what_was_acknowledged_is_not_sent_by_the_next_process(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path, after_s=0, memory_kbytes=1024)
    send(sink, 0, 30, 100 * KB)
    world.up = True
    sink.check()
    world.up = False
    got = len(world.arrived)
    assert 0 < got < 30
    sink.flush(0)
    sink.close()
    world.up = True
    world.later(world.sink(tmp_path), 1)
    assert numbers(world) == list(range(30))


def test_a_sink_that_is_closed_sends_nothing_any_more(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path)
    send(sink, 0, 30)
    sink.close()
    assert (sink.kept, sink.kept_items, sink.outstanding) == (30, 300, 0), "kept without a flush too"
    world.up = True
    other = world.sink(tmp_path)
    world.later(other, 1)
    assert numbers(world) == list(range(30)), "each of them once, by the one that has the folder"
    other.close()


def test_what_is_acknowledged_until_a_sink_is_closed_is_not_left_to_the_next(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path)
    send(sink, 0, 30)
    sink.flush(0)
    world.up = True
    sink.close()
    assert (sink.acked, sink.kept, sink.outstanding) == (30, 0, 0)
    other = world.sink(tmp_path)
    assert not other.counts["recovered_messages"]
    world.later(other, 1)
    assert numbers(world) == list(range(30))
    other.close()


def test_a_full_queue_drops_its_oldest_segment_and_counts_it(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path, max_mbytes=1, memory_kbytes=1024)
    world.later(sink, 2)
    send(sink, 0, 60, 50 * KB)
    assert sink.spooled_bytes <= 1 << 20
    lost = sink.counts["spool_full_messages"]
    assert (
        lost and sink.failed == lost and sink.failed_items == sink.counts["spool_full_packets"] == 10 * lost
    )
    assert sum(sink.dropped_by_partition.values()) == 10 * lost
    balanced(sink)
    world.up = True
    for _ in range(30):
        sink.check()
    arrived = numbers(world)
    missing = sorted(set(range(60)) - set(arrived))
    assert len(missing) == lost and arrived == sorted(arrived)
    assert missing == list(range(missing[0], missing[0] + lost)), "a gap, no holes"
    for partition in range(3):
        assert sink.dropped_by_partition[partition] == 10 * sum(n % 3 == partition for n in missing)
    assert any("full" in line for line in world.told)
    balanced(sink)


def test_a_disk_that_takes_nothing_costs_messages_that_are_counted_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path)
    send(sink, 0, 5)
    world.now_s += 5
    real = os.pwrite

    def full(file: int, raw: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        send(sink, 5, 10)
    assert os.pwrite is real
    assert sink.counts["spool_failed_packets"] == sink.failed_items == 50
    assert any("No space left" in line for line in world.told)
    send(sink, 10, 15)
    balanced(sink)
    world.up = True
    world.later(sink, 1)
    assert numbers(world) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    balanced(sink)


def test_a_write_that_ends_early_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path, after_s=0)
    send(sink, 0, 3)
    real, calls = os.pwrite, []

    def short(file: int, raw: bytes, offset: int) -> int:
        calls.append(len(raw))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, raw[:20], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        send(sink, 3, 4)
    send(sink, 4, 6)
    sink.flush(0)
    sink.close()
    world.up = True
    world.later(world.sink(tmp_path), 1)
    assert numbers(world) == [0, 1, 2, 4, 5]


def test_refused_messages_are_tried_again_in_order_after_a_pause(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path)
    world.fails = lambda message: KafkaError.TOPIC_AUTHORIZATION_FAILED
    send(sink, 0, 20)
    sink.check()
    assert any("trying again" in line for line in world.told) and not world.arrived
    send(sink, 20, 30)
    world.later(sink, 5)
    assert sink.counts["spooled_messages"] >= 30 and not sink.failed
    world.fails = lambda message: None
    world.later(sink, 5)
    assert numbers(world) == list(range(30)) and sink.acked == 30
    balanced(sink)


def test_a_message_that_no_repetition_mends_is_dropped_alone(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path)
    world.fails = lambda m: KafkaError.MSG_SIZE_TOO_LARGE if m.value == value(4) else None
    send(sink, 0, 8)
    sink.produce("packets", bytes(2_000_000), 1, items=7)
    sink.flush(1)
    assert numbers(world) == [0, 1, 2, 3, 5, 6, 7]
    assert sink.counts["refused_messages"] == sink.failed == 2 and sink.counts["refused_packets"] == 17
    assert any("too many" in line for line in world.told)
    balanced(sink)


def test_a_producer_that_cannot_go_on_is_replaced(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path)
    send(sink, 0, 10)
    world.buses[-1].broken = "fatal"
    sink.check()
    assert len(world.buses) == 2
    world.up = True
    send(sink, 10, 20)
    world.later(sink, 3)
    assert numbers(world) == list(range(20))
    world.refuses_at_once = True
    send(sink, 20, 22)
    world.refuses_at_once = False
    world.later(sink, 3)
    assert numbers(world) == list(range(22))
    balanced(sink)


def test_a_damaged_segment_costs_what_follows_in_it_and_is_told_once(tmp_path: Path) -> None:
    world = World()
    world.up = False
    sink = world.sink(tmp_path, after_s=0, max_mbytes=1)
    send(sink, 0, 12, 50 * KB)
    sink.flush(0)
    sink.close()
    first, second, *_ = sorted(tmp_path.glob("*.spool"))
    raw = bytearray(first.read_bytes())
    raw[120 * KB] ^= 1
    first.write_bytes(raw)
    world.up = True
    sink = world.sink(tmp_path)
    (told,) = [line for line in world.told if "checksum" in line]
    assert str(first) in told and "at byte" in told
    assert sink.counts["spool_corrupt"] == 1 and sink.counts["spool_skipped_bytes"] > 100 * KB
    world.later(sink, 1)
    arrived = numbers(world)
    assert arrived[:2] == [0, 1] and arrived[2:] == list(range(arrived[2], 12)) and arrived[2] > 3
    assert second.exists() is False


def test_one_process_has_a_folder(tmp_path: Path) -> None:
    world = World()
    sink = world.sink(tmp_path)
    with pytest.raises(SettingsError, match=f"process {os.getpid()} has it"):
        world.sink(tmp_path)
    sink.close()
    world.sink(tmp_path).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be used"):
        world.sink(tmp_path / "file")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 30)),
        st.tuples(st.just("up"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from((0.0, 0.3, 3.0))),
        st.tuples(st.just("refuse"), st.booleans()),
        st.tuples(st.just("break"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS, st.sampled_from((0.0, 0.5)))
def test_whatever_happens_everything_arrives_and_nothing_new_before_what_is_older(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]], after_s: float
) -> None:
    path, world, sent = tmp_path_factory.mktemp("spool"), World(), 0
    sink = world.sink(path, after_s=after_s, max_mbytes=4, memory_kbytes=1024)
    for step, much in [*steps, ("up", True), ("refuse", False), ("wait", 5.0), ("wait", 5.0)]:
        if step == "send":
            send(sink, sent, sent + int(much), 20 * KB)
            sent += int(much)
        elif step == "up":
            world.up = bool(much)
        elif step == "wait":
            world.later(sink, much)
        elif step == "refuse":
            code = KafkaError.UNKNOWN_TOPIC_OR_PART if much else None
            world.fails = lambda message, code=code: code  # type: ignore[misc]
        elif step == "break":
            world.buses[-1].broken = "fatal"
        else:
            sink.flush(0)
            balanced(sink)
            sink.close()
            sink = world.sink(path, after_s=after_s, max_mbytes=4, memory_kbytes=1024)
    for _ in range(100):
        sink.check()
    sink.close()
    assert not sink.counts["spool_full_messages"] or sent > 100
    arrived = numbers(world)
    first_seen = list(dict.fromkeys(arrived))
    assert first_seen == sorted(first_seen)
    if not sink.counts["spool_full_messages"]:
        assert first_seen == list(range(sent))
    # Downstream drops what is not newer than the last: with that, nothing comes twice and nothing is missing.
    newest, kept = -1, []
    for number in arrived:
        if number > newest:
            newest = number
            kept.append(number)
    assert kept == first_seen


def test_a_thread_syncs_and_tells_failures() -> None:
    calls: list[int] = []
    failures: list[str] = []

    def sync() -> None:
        calls.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    syncer = Syncer(sync, 0.001, failures.append)
    wait_until(lambda: len(failures) > 2, 10)
    syncer.close()
    assert "Input/output error" in failures[0]
