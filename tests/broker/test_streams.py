"""The flows agent on a real Kafka: whatever happens to workers and broker, the rows are those of an offline run."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.broker.kafka import KafkaBroker
from producers.config import ReplaySettings
from producers.probes import parse_probes
from producers.replay import ReplayOptions, run_replay
from schemas.codec import decode
from schemas.features import FlowEndReason
from schemas.packets import decode_packet_batch
from tests.broker.flows import Flows, messages, offline_rows
from tests.waiting import wait_until


@pytest.fixture
def flows(bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[Flows]:
    made = Flows(bootstrap, topic_prefix, tmp_path)
    made.create_topics()
    yield made
    for worker in made.workers:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture(scope="session")
def capture(demo_capture: Path) -> str:
    return str(demo_capture)


def total(flows: Flows, name: str) -> int:
    return sum(worker.counters[name] for worker in flows.workers)


def test_replayed_rows_are_the_offline_rows_at_any_speed(flows: Flows, capture: str) -> None:
    worker = flows.start()
    flows.wait_members(1)
    for probe, speed, batch_packets in (("gate", None, 2048), ("slow", 20.0, 7)):
        settings = ReplaySettings(rebase="keep", batch_packets=batch_packets, max_gap_s=5)
        summary = run_replay(
            parse_probes([capture], [probe]), flows.bus, ReplayOptions(speed, settings=settings)
        )
        assert summary.packets_acked == summary.total("packets_accepted") == 63_777
    flows.wait_done()
    assert worker.stop() == 0
    assert flows.rows() == offline_rows(capture) + offline_rows(capture, "slow")
    counters = worker.counters
    assert counters["packets"] == 2 * 63_777
    assert counters["batches_missing"] == counters["batches_duplicate"] == counters["packets_late"] == 0
    records = [record for record in flows.telemetry() if record["stage"] == "flows"]
    assert sum(r["items_in"] for r in records) == sum(r["items_out"] for r in records) == 2 * 63_777
    assert [r["dropped"] for r in records] == [{}] * len(records)
    for name in ("early", "window", "flow"):
        assert sum(r["counters"].get(f"rows_{name}", 0) for r in records) == counters[f"rows_{name}"]


def test_a_stop_and_a_restart_in_the_middle_leave_no_trace(flows: Flows, capture: str) -> None:
    first = flows.start()
    flows.wait_members(1)
    with flows.feeding(messages(capture, 50), 8):
        wait_until(lambda: sum(flows.committed()) > 300, 30)
        assert first.stop() == 0
        second = flows.start()
    flows.wait_done()
    assert second.stop() == 0
    assert 0 < first.counters["packets"] < 63_777
    assert flows.rows() == offline_rows(capture)
    assert second.counters["states_restored"] == 4
    assert total(flows, "batches_missing") == total(flows, "batches_duplicate") == 0
    assert first.told == second.told == []


def test_workers_come_and_go(flows: Flows, capture: str) -> None:
    first = flows.start()
    flows.wait_members(1)
    with flows.feeding(messages(capture, 50), 12):
        wait_until(lambda: sum(flows.committed()) > 100, 30)
        second = flows.start()
        flows.wait_members(2)
        reached = sum(flows.committed())
        wait_until(lambda: sum(flows.committed()) > reached + 100, 30)
        assert first.stop() == 0
    flows.wait_done()
    assert second.stop() == 0
    assert flows.rows() == offline_rows(capture)
    assert total(flows, "batches_missing") == 0
    assert first.counters["packets"] + second.counters["packets"] == 63_777
    assert total(flows, "states_restored") >= 4


@pytest.mark.parametrize("survivor", [False, True], ids=["restart", "survivor"])
def test_a_killed_worker_costs_nothing_but_repeated_rows(flows: Flows, capture: str, survivor: bool) -> None:
    victim = flows.start()
    other = flows.start() if survivor else None
    flows.wait_members(2 if survivor else 1)
    with flows.feeding(messages(capture, 50), 3):
        wait_until(lambda: sum(flows.committed()) > 300, 30)
        time.sleep(random.uniform(0, 0.3))
        victim.kill()
        other = other or flows.start()
    flows.wait_done()
    assert other.stop() == 0
    rows, expected = flows.rows(), offline_rows(capture)
    assert set(rows) == set(expected)
    assert max((rows - expected).values(), default=0) <= 1
    counters = other.counters
    assert counters["states_restored"] > 0
    assert counters["states_outdated"] == counters["states_unusable"] == counters["batches_missing"] == 0
    assert other.told == []


def test_poisoned_messages_are_set_aside_and_the_rest_goes_on(flows: Flows, capture: str) -> None:
    good = list(messages(capture, 500))
    poison = [(partition, b"\x00poison %d" % partition) for partition in range(3)]
    flows.produce(good[:60] + poison)
    worker = flows.start()
    flows.wait_members(1)
    flows.produce(good[60:])
    flows.wait_done()
    assert worker.stop() == 0
    assert flows.rows() == offline_rows(capture)
    assert worker.counters["messages_set_aside"] == 3
    letters = [decode("DeadLetter", value) for value in flows.read("dead-letters")]
    offsets = Counter(partition for partition, _ in good[:60])
    assert sorted((d["topic"], d["partition"], d["offset"], d["message"]) for d in letters) == [
        (f"{flows.prefix}packets", partition, offsets[partition], value) for partition, value in poison
    ]
    (line,) = worker.told
    told = letters[0]
    assert f"{flows.prefix}packets [{told['partition']}] offset {told['offset']} cannot be used" in line
    assert told["reason"] in line


def test_repeated_batches_change_nothing_gaps_are_counted_and_an_epoch_is_new(
    flows: Flows, capture: str
) -> None:
    sent = list(messages(capture, 500))
    again = [(p, decode_packet_batch(value)) for p, value in sent]
    later = [
        (p, replace(batch, epoch=batch.epoch + 1, sequence=batch.sequence * 2).encode()) for p, batch in again
    ]
    worker = flows.start()
    flows.produce(sent)
    flows.produce(sent[5:20])
    flows.produce(later)
    flows.wait_done()
    assert worker.stop() == 0
    assert flows.rows() == offline_rows(capture) + offline_rows(capture)
    counters = worker.counters
    assert counters["batches_duplicate"] == 15
    assert counters["packets_duplicate"] == sum(batch.packets for _, batch in again[5:20])
    ends = [max(batch.sequence for p, batch in again if p == partition) for partition in range(4)]
    assert counters["batches_missing"] == sum(ends)
    assert counters["packets"] == 2 * 63_777


def test_silence_closes_flows_by_the_wall_clock(flows: Flows, capture: str) -> None:
    batches = [(p, decode_packet_batch(value)) for p, value in messages(capture, 500)]
    worker = flows.start(silence_s=0.5, idle_timeout_s=1.0, tcp_linger_s=0.5)
    flows.produce((p, batch.encode()) for p, batch in batches if not batch.end_of_stream)

    def ended() -> int:
        return sum(row.representation == "flow" for row in flows.rows())

    expected = offline_rows(capture, idle_timeout_s=1.0, tcp_linger_s=0.5)
    wait_until(lambda: ended() == sum(row.representation == "flow" for row in expected), 30)
    assert worker.stop() == 0
    reasons = {row["flow_end_reason"] for row in flows.rows() if row.representation == "flow"}
    assert reasons == {FlowEndReason.IDLE_TIMEOUT, FlowEndReason.END_OF_FLOW}
    assert worker.counters["packets"] == 63_777


def test_ctrl_c_hands_over_and_exits_130_and_a_second_one_stays_quiet(flows: Flows, capture: str) -> None:
    sent = messages(capture, 50)
    first = flows.start()
    flows.produce(sent[:500])
    wait_until(lambda: sum(flows.committed()) > 100, 30)
    first.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert first.stop(signal.SIGINT) == 130
    assert not any("Traceback" in line for line in first.told)
    second = flows.start()
    flows.produce(sent[500:])
    flows.wait_done()
    assert second.stop(signal.SIGINT) == 130
    assert flows.rows() == offline_rows(capture)
    assert total(flows, "batches_duplicate") == total(flows, "batches_missing") == 0


def test_a_broker_that_dies_and_comes_back_is_waited_for(
    broker: KafkaBroker, capture: str, tmp_path: Path
) -> None:
    with KafkaBroker() as own:
        flows = Flows(own.bootstrap, "", tmp_path)
        flows.create_topics()
        sent = messages(capture, 50)
        worker = flows.start(probe_silence_s=5)
        try:
            flows.produce(sent[:600])
            wait_until(lambda: sum(flows.committed()) > 100, 60)
            own.kill()
            time.sleep(6)
            own.restart()
            flows.produce(sent[600:])
            flows.wait_done(90)
            assert worker.stop() == 0
            assert flows.rows() == offline_rows(capture)
            assert worker.counters["batches_missing"] == 0
            assert 1 <= len(worker.told) <= 3
            told = [
                line
                for line in worker.told
                if not line.startswith(f"flowgauge: warning: bus {own.bootstrap}: ")
            ]
            assert told == []  # the probe too is not taken for silent while nobody could be heard
        finally:
            worker.kill()


def test_without_a_broker_it_says_so_and_ends(tmp_path: Path) -> None:
    worker = Flows("127.0.0.1:1", "", tmp_path).start("bus.connect_timeout_s=2")
    assert worker.process.wait(30) == 4
    waiting, error = worker.told
    assert "trying for 2 s" in waiting
    assert error.startswith("flowgauge: error: bus 127.0.0.1:1: ")
    assert "no broker answered within 2 s" in error


def test_missing_and_misfit_topics_are_named(flows: Flows) -> None:
    no_topics = Flows(flows.bootstrap, f"{flows.prefix}other.", flows.folder)
    worker = no_topics.start()
    flows.workers.append(worker)
    assert worker.process.wait(30) == 4
    (line,) = worker.told
    assert f"{flows.prefix}other.packets, " in line
    assert "flowgauge topics --create" in line
    worker = flows.start("bus.partitions=8")
    assert worker.process.wait(30) == 4
    assert worker.told == [
        f"flowgauge: error: bus {flows.bootstrap}: topic {flows.prefix}packets has 4 partitions, "
        "bus.partitions says 8"
    ]
