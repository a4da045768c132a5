"""``bus``: a replay through Kafka and a flows worker in Faust to the feature topics, each a process of its own."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from flowgauge.bench.accounting import Books, BusReader, books, first_sent_ns
from flowgauge.bench.children import Child, cpu_seconds
from flowgauge.bench.corpus import Corpus
from flowgauge.bench.machine import usable_cores
from flowgauge.bench.results import Result
from flowgauge.bus import admin, broker_topics, project_topics
from flowgauge.outcome import tell
from infra.broker.kafka import KafkaBroker
from infra.broker.topics import create_topics
from producers.config import BusSettings, topic_name
from producers.security.clients import client_properties
from schemas.errors import BusError
from schemas.topics import PACKETS, TELEMETRY_COST
from streams.config import StreamsSettings

PACKETS_SENT = 20_000_000
READY_TIMEOUT_S = 120.0
STALL_TIMEOUT_S = 60.0
_POLL_S = 0.05
_REMOVE_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Run:
    """What one run through the bus took."""

    books: Books
    seconds: float
    """From the first batch produced until the worker had committed everything."""
    cpu_s: dict[str, float | None]
    """CPU time by process."""
    replay: dict[str, Any]
    """The replay's own summary."""


def bus(
    corpus: Corpus,
    packets_per_pass: int,
    settings: StreamsSettings,
    bus_settings: BusSettings,
    packets: int,
    external: bool,
    passed_on: Sequence[str],
    on_step: Callable[[str], None],
) -> Result:
    """Measure the whole path; its detail ``accounted`` tells whether every packet is.

    Args:
        corpus: what is replayed, in loops.
        packets_per_pass: packets that the corpus holds.
        settings: of the flows worker.
        bus_settings: partitions and producer settings; its broker is used where ``external``.
        packets: least number to send.
        external: whether to use a broker that runs already instead of starting one.
        passed_on: flags that give the settings to the replay and the worker.
        on_step: told what is going on.

    Raises:
        BusError: no broker, no Java, or a process failed.
    """
    loops = max(1, -(-packets // packets_per_pass))
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    with kafka(bus_settings, external, on_step) as (bootstrap, broker_pid):
        chosen = bus_settings.model_copy(update={"bootstrap": bootstrap, "topic_prefix": prefix})
        with bench_topics(chosen, settings, external):
            on_step(f"replaying {loops * packets_per_pass:,} packets through {bootstrap}")
            run = _measure(corpus, loops, passed_on, settings.group, chosen, broker_pid)
    return _result(run)


@contextmanager
def kafka(
    settings: BusSettings, external: bool, on_step: Callable[[str], None], *, lasting: bool = False
) -> Iterator[tuple[str, int | None]]:
    """Give the address of a broker, and its process id where it is started here; ``lasting``: see ``KafkaBroker``."""
    if external:
        yield settings.bootstrap, None
        return
    on_step("starting Apache Kafka")
    with KafkaBroker(lasting=lasting) as broker:
        yield broker.bootstrap, broker.pid


@contextmanager
def bench_topics(settings: BusSettings, streams: StreamsSettings, remove: bool) -> Iterator[None]:
    """Make the topics that the workers need; remove them afterwards if ``remove``."""
    names = {
        topic_name(settings, topic.name): (topic.partitions(settings.partitions), topic.config)
        for topic in project_topics(streams).values()
    }
    broker_topics(admin(settings), settings)  # creating waits longer for a broker that is not there
    create_topics(settings.bootstrap, names)
    try:
        yield
    finally:
        if remove:
            _remove(settings, list(names))


def _remove(settings: BusSettings, names: list[str]) -> None:
    """Remove topics. Those that stay are told, no more: an error of the measurement itself must not be hidden."""
    client = AdminClient(client_properties(settings))
    stay = []
    for name, future in client.delete_topics(names, request_timeout=_REMOVE_TIMEOUT_S).items():
        try:
            future.result(timeout=_REMOVE_TIMEOUT_S + 5)
        except (KafkaException, TimeoutError):
            stay.append(name)
    if stay:
        tell(f"flowgauge: bus {settings.bootstrap}: not removed: {', '.join(stay)}")


def _measure(
    corpus: Corpus,
    loops: int,
    passed_on: Sequence[str],
    group: str,
    chosen: BusSettings,
    broker_pid: int | None,
) -> Run:
    common = [
        "--json",
        *passed_on,
        "--bus",
        chosen.bootstrap,
        "--set",
        f"bus.topic_prefix={chosen.topic_prefix}",
    ]
    flowgauge = [sys.executable, "-m", "flowgauge"]
    streams = [*flowgauge, "streams", *common]
    replay = [*flowgauge, "replay", *map(str, corpus.paths), *common, "--probe", "bench"]
    replay += ["--speed", "max", "--rebase", "keep", "--loop", str(loops)]
    reader = BusReader(chosen, f"{chosen.topic_prefix}{group}")
    try:
        with Child("flowgauge streams", streams) as worker:
            _wait_ready(reader, worker)
            before = {"worker": worker.cpu_s(), "broker": _cpu(broker_pid)}
            with Child("flowgauge replay", replay) as sender:
                summary, sender_cpu_s = _wait_replayed(sender)
            ended_ns = _wait_committed(reader, worker, chosen.partitions)
            after = {"worker": worker.cpu_s(), "broker": _cpu(broker_pid)}
            worker.terminate()
            counters = json.loads(worker.wait(READY_TIMEOUT_S))["counters"]
        seconds = (ended_ns - first_sent_ns(reader, chosen)) / 1e9
        found = books(reader, chosen, summary["packets"]["sent"], summary["packets"]["acked"], counters)
    finally:
        reader.close()
    taken = {name: _difference(after[name], before[name]) for name in after}
    return Run(found, seconds, {"replay": sender_cpu_s, **taken}, summary)


def _wait_ready(reader: BusReader, worker: Child) -> None:
    """Wait for the worker's first telemetry: it tells only once it has its partitions."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not reader.end(TELEMETRY_COST, 0):
        if not worker.running:
            raise worker.failure()
        if time.monotonic() > deadline:
            raise BusError(f"the flows worker had no partitions after {READY_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _wait_replayed(sender: Child) -> tuple[dict[str, Any], float | None]:
    """Wait for the replay's end, however long it takes; return its summary and the CPU time it took."""
    while sender.running:
        time.sleep(_POLL_S)
    summary = json.loads(sender.wait(0.0))
    return summary, round(summary["cpu_s"], 2)


def _wait_committed(reader: BusReader, worker: Child, partitions: int) -> int:
    """Wait until the worker has committed all there is; return the wall clock then, in ns."""
    ends = [reader.end(PACKETS, number) for number in range(partitions)]
    last, deadline = [0] * partitions, time.monotonic() + STALL_TIMEOUT_S
    while True:
        committed = reader.committed(PACKETS, partitions)
        if all(offset >= end for offset, end in zip(committed, ends, strict=True)):
            return time.time_ns()
        if not worker.running:
            raise worker.failure()
        if committed != last:
            last, deadline = committed, time.monotonic() + STALL_TIMEOUT_S
        if time.monotonic() > deadline:
            behind = sum(ends) - sum(committed)
            raise BusError(f"the flows worker stands still, {behind} messages behind")
        time.sleep(_POLL_S)


def _cpu(pid: int | None) -> float | None:
    return None if pid is None else cpu_seconds(pid)


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else round(after - before, 2)


def _result(run: Run) -> Result:
    packets = run.books.acked
    known = [seconds for seconds in run.cpu_s.values() if seconds is not None]
    # Two cores can give no more than this, and no process here keeps much more than one of them busy.
    cores = min(2, usable_cores())
    least_s = max(sum(known) / cores, *known)
    return Result(
        "bus",
        packets / run.seconds,
        "packets/s",
        cpu_value=packets / least_s if len(known) == len(run.cpu_s) else None,
        details={
            "accounted": run.books.balanced,
            "packets": packets,
            "seconds": round(run.seconds, 3),
            "cpu_s": run.cpu_s,
            "cpu_value_cores": cores,
            "replay_seconds": round(run.replay["duration_s"], 3),
            "message_bytes": run.replay["messages"]["bytes"],
            "books": run.books.as_dict(),
        },
    )
