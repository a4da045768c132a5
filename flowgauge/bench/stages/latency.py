"""``latency``: from a packet batch's sending to its predictions in the hands of another program, at a steady rate.

Replay, flows worker, model worker and broker are processes of their own, and so is, in effect, the reader: it
shares nothing with them but the bus and has no other work. What it has read is decoded afterwards.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from numpy.typing import NDArray

from flowgauge.bench.accounting import BusReader
from flowgauge.bench.children import Child, cpu_seconds
from flowgauge.bench.corpus import Corpus, make_corpus
from flowgauge.bench.labels import make_labels
from flowgauge.bench.results import Result
from flowgauge.bench.stages.bus import bench_topics, kafka
from flowgauge.costs import PipelineCosts, fold
from models.online.config import OnlineSettings
from producers.config import BusSettings, topic_name
from producers.pacing import Timeline
from producers.security.clients import client_properties
from producers.sources.capture import open_capture
from schemas.codec import decode
from schemas.errors import BusError
from schemas.topics import PREDICTIONS_FLOW, TELEMETRY_COST
from streams.config import StreamsSettings

PARTITIONS = 1
"""Unless the settings say otherwise: one for each flows worker. Each partition has messages and requests of its own,
and at a moderate rate it is those that cost, not packets."""
WARM_S = 5.0
"""Predictions of the first seconds are not measured: code is being compiled and read from disk."""
MAX_GAP_S = 0.2
READY_TIMEOUT_S = 120.0
DRAIN_TIMEOUT_S = 60.0
_QUIET_S = 2.0
_POLL_S = 0.05
_AT_ONCE = 10_000
_HOPS = ("bus_to_flows_ns", "flows_ns", "bus_to_model_ns", "model_ns")
FRESH = ("--set", "models.checkpoint_interval_s=0")
"""Each run begins with a model that knows nothing, and leaves none behind."""


@dataclass(frozen=True)
class Setup:
    """What is run."""

    streams: StreamsSettings
    models: OnlineSettings
    bus: BusSettings
    rate: int
    """Packets per second."""
    seconds: float
    """For how long packets are sent, the first seconds included."""
    external: bool
    """Whether a broker that runs already is used."""
    passed_on: tuple[str, ...] = ()
    """Flags that give the settings to the processes."""
    apart: bool = False
    """Whether flows worker and model worker are processes of their own, with a hop over the bus between."""


@dataclass(frozen=True)
class Run:
    """What came of it."""

    arrivals: list[tuple[int, bytes]]
    """When each message of ``predictions.flow`` could be read (ns since the epoch), and the message."""
    costs: PipelineCosts
    replay: dict[str, Any]
    counters: Counter[str]
    """What the workers counted."""
    cpu_share: dict[str, float]
    """Cores taken while packets were sent, by process."""


def latency(captures: Sequence[str], setup: Setup, on_step: Callable[[str], None]) -> list[Result]:
    """Measure the median, with all details, and the 99th percentile.

    The detail ``accounted`` tells whether every packet, row and prediction is.

    Raises:
        InputError: a capture cannot be read.
        BusError: no broker, no Java, or a process failed.
    """
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    packets = max(1, round(setup.rate * setup.seconds))
    # Without long silences in between, which would end the flows of a whole repetition at one instant.
    with (
        make_corpus(captures, packets, gap_s=1) as corpus,
        make_labels(corpus) as labels,
        kafka(setup.bus, setup.external, on_step) as (bootstrap, broker_pid),
    ):
        bus = setup.bus.model_copy(update={"bootstrap": bootstrap, "topic_prefix": prefix})
        span_s, frames = _pace(corpus)
        speed, loops = setup.rate * span_s / frames, max(1, round(packets / frames))
        with bench_topics(bus, setup.streams, setup.external):
            on_step(f"replaying {loops * frames:,} packets at {setup.rate:,}/s through {bootstrap}")
            run = _run(corpus, labels, setup, bus, speed, loops, broker_pid)
    return _results(run, setup)


def _pace(corpus: Corpus) -> tuple[float, int]:
    """Return how many seconds the corpus lasts at speed 1, and its packets."""
    span_ns = packets = 0
    for path in corpus.paths:
        timeline: Timeline | None = None
        with open_capture(str(path)) as capture:
            for block in capture.blocks():
                timeline = timeline or Timeline(round(MAX_GAP_S * 1e9), int(block.time_ns[0]))
                last_ns = int(timeline.due_ns(block.time_ns)[-1])
                packets += block.packets
        span_ns += last_ns if packets else 0
    return max(span_ns, 1) / 1e9, max(packets, 1)


def _run(
    corpus: Corpus,
    labels: Path | None,
    setup: Setup,
    bus: BusSettings,
    speed: float,
    loops: int,
    broker_pid: int | None,
) -> Run:
    common = ["--json", *setup.passed_on, "--bus", bus.bootstrap]
    common += ["--set", f"bus.topic_prefix={bus.topic_prefix}", "--set", f"bus.partitions={bus.partitions}"]
    flowgauge = [sys.executable, "-m", "flowgauge"]
    commands = {"models": [*flowgauge, "models", *common, *FRESH]}
    if setup.apart:
        commands = {"streams": [*flowgauge, "streams", *common], **commands}
    else:
        commands["models"].append("--with-flows")
    replay = [*flowgauge, "replay", *map(str, corpus.paths), *common, "--probe", "bench"]
    replay += ["--speed", repr(speed), "--loop", str(loops), "--set", f"replay.max_gap_s={MAX_GAP_S}"]
    if labels is not None:
        replay += ["--labels", str(labels)]
    reader = Reader(bus, PREDICTIONS_FLOW)
    try:
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Child(f"flowgauge {name}", command))
                for name, command in commands.items()
            }
            _wait_ready(bus, workers)
            pids = {"broker": broker_pid, **{name: worker.pid for name, worker in workers.items()}}
            before, began_s = _cpu(pids), time.monotonic()
            with Child("flowgauge replay", replay) as sender:
                while sender.running:
                    reader.read(_POLL_S)
                took_s, after = time.monotonic() - began_s, _cpu(pids)
                summary = json.loads(sender.wait(0.0))
            reader.read_until_quiet(_QUIET_S)
            for worker in workers.values():
                worker.terminate()
            said = {name: json.loads(worker.wait(READY_TIMEOUT_S)) for name, worker in workers.items()}
        reader.read_until_quiet(_QUIET_S)
    finally:
        reader.close()
    share = {name: round((after[name] - before[name]) / took_s, 3) for name in after}
    share["replay"] = round(summary["cpu_s"] / summary["duration_s"], 3)
    counters = sum((Counter(words["counters"]) for words in said.values()), Counter[str]())
    return Run(reader.arrivals, fold(_told(bus)), summary, counters, share)


class Reader:
    """A subscriber to predictions as anyone may write it: confluent-kafka and its defaults."""

    def __init__(self, bus: BusSettings, plain_topic: str) -> None:
        self.arrivals: list[tuple[int, bytes]] = []
        self._consumer = Consumer(
            client_properties(bus, {"group.id": "flowgauge-bench-reader", "enable.auto.commit": False})
        )
        topic = topic_name(bus, plain_topic)
        self._consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(bus.partitions)])

    def read(self, wait_s: float) -> bool:
        """Take what there is, waiting for the first of it; return whether there was any."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return False
        # What the client holds already could be read at this instant, too.
        messages = [first, *self._consumer.consume(_AT_ONCE, 0)]
        now_ns = time.time_ns()
        self.arrivals += [(now_ns, m.value()) for m in messages if m.error() is None]
        return True

    def read_until_quiet(self, quiet_s: float) -> None:
        """Take all that comes, until nothing has come for a while."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while self.read(quiet_s):
            if time.monotonic() > deadline:
                raise BusError(f"predictions still come {DRAIN_TIMEOUT_S:.0f} s after the last packet")

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()


def _wait_ready(bus: BusSettings, workers: dict[str, Child]) -> None:
    """Wait until both workers have told costs: they do so once they have their partitions."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not {"flows", "models"} <= {record["stage"] for record in _told(bus)}:
        for worker in workers.values():
            if not worker.running:
                raise worker.failure()
        if time.monotonic() > deadline:
            raise BusError(f"the workers had no partitions after {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.5)


def _told(bus: BusSettings) -> list[dict[str, Any]]:
    reader = BusReader(bus)
    try:
        return [decode("CostTelemetry", value) for value in reader.read(TELEMETRY_COST, 0)]
    finally:
        reader.close()


def _cpu(pids: dict[str, int | None]) -> dict[str, float]:
    """Return the CPU seconds of each process that can be told."""
    taken = {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}
    return {name: seconds for name, seconds in taken.items() if seconds is not None}


def _results(run: Run, setup: Setup) -> list[Result]:
    records = [(at_ns, decode("Prediction", value)) for at_ns, value in run.arrivals]
    if not records:
        raise BusError("no prediction could be read")
    begin_ns = records[0][0] + round(WARM_S * 1e9)
    measured = [(at_ns, r) for at_ns, r in records if at_ns >= begin_ns]
    if not measured:
        raise BusError(f"all predictions came within the first {WARM_S:g} s; measure for longer")
    total = np.array([at_ns - r["probe_time_ns"] for at_ns, r in measured], dtype=np.int64)
    hops = {name: np.array([r[name] for _, r in measured], dtype=np.int64) for name in _HOPS}
    hops["bus_to_reader_ns"] = total - sum(hops.values())
    p50, p99 = _quantiles_ms(total)
    seconds = (measured[-1][0] - begin_ns) / 1e9
    median = Result(
        "latency_p50_ms",
        p50,
        "ms",
        details={
            "accounted": not _problems(run, [r for _, r in records]),
            "problems": _problems(run, [r for _, r in records]),
            "packets_per_s": round(run.replay["packets_per_s"]),
            "predictions": len(measured),
            "predictions_per_s": round(len(measured) / max(seconds, 1e-3)),
            "share_with_label": round(sum(r["label"] is not None for _, r in measured) / len(measured), 3),
            "rows_learned": run.counters["rows_learned"],
            "seconds": round(seconds, 1),
            "hops_ms": {
                name.removesuffix("_ns"): dict(zip(("p50", "p99"), _quantiles_ms(values), strict=True))
                for name, values in hops.items()
            },
            "replay_late_max_ms": round(run.replay["late_max_ms"], 1),
            "cpu_share": run.cpu_share,
            "classifier": setup.models.classifier,
            "partitions": setup.bus.partitions,
            "apart": setup.apart,
        },
    )
    return [median, Result("latency_p99_ms", p99, "ms")]


def _quantiles_ms(values: NDArray[np.int64]) -> tuple[float, float]:
    p50, p99 = np.quantile(values, (0.5, 0.99)) / 1e6
    return round(float(p50), 3), round(float(p99), 3)


def _problems(run: Run, records: list[dict[str, Any]]) -> list[str]:
    """Return what does not add up between packets sent and predictions read."""
    packets = run.replay["packets"]
    rows = sum(run.counters[f"rows_{name}"] for name in {r["representation"] for r in records})
    pairs = (
        ("packets acknowledged", packets["sent"], packets["acked"]),
        ("packets in the flow table", packets["sent"], run.counters["packets"]),
        ("batches missing", 0, run.counters["batches_missing"]),
        ("predictions read", rows, len(records)),
        ("prediction ids", rows, len({r["prediction_id"] for r in records})),
    )
    found = [f"{what}: {found:,}, not {wanted:,}" for what, wanted, found in pairs if wanted != found]
    return found + run.costs.verdict()
