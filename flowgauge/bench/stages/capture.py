"""``capture``: a live probe on one end of a wire, a packet generator on the other, Kafka behind the probe.

The wire is a veth pair between two network namespaces made here. Generator, both kernels' work, the probe and
the broker share this machine's cores. A rate holds if the probe's ring dropped no packet and every packet that
arrived at the interface was acknowledged by Kafka; rates are tried upward until one does not.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from flowgauge.bench.accounting import BusReader
from flowgauge.bench.children import Child, cpu_seconds
from flowgauge.bench.results import Result
from flowgauge.bench.stages.bus import bench_topics
from infra.broker.kafka import KafkaBroker
from infra.lab.generator import receive_in_batches
from infra.lab.network import can_make_namespaces, inside
from infra.lab.wire import SEEING, SENDING, Wire, entered
from producers.config import BusSettings, topic_name
from schemas.errors import BusError, SettingsError
from schemas.topics import PACKETS, TELEMETRY_COST
from streams.config import StreamsSettings

WANTED_RATE = 500_000
STEP = 1.2
"""How much more each further rate asks for."""
_MOST_STEPS = 12
_STEP_SECONDS = 5.0
_READY_TIMEOUT_S = 120.0
_POLL_S = 0.1
_TRIM_S = 10.0
"""How often a long run deletes from the topic what was counted, so that it needs no disk."""


@dataclass(frozen=True)
class Setup:
    """What the stage measures with."""

    streams: StreamsSettings
    bus: BusSettings
    rate: int = WANTED_RATE
    """The first rate, kept up for ``seconds``."""
    seconds: float = 20.0
    passed_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One rate, and what became of its packets."""

    asked: float
    arrived: int
    lost_before: int
    """Packets that did not reach the interface."""
    seconds: float
    summary: dict[str, Any]
    """The probe's own."""
    messages: int
    """Messages on the topic, as its offsets tell."""
    cpu_s: dict[str, float]
    waited_s: float
    """How long the probe could run and had no core."""
    resident_kib: list[int]
    """The probe's memory, second by second."""

    @property
    def rate(self) -> float:
        """Packets a second that arrived at the interface."""
        return self.arrived / self.seconds

    @property
    def dropped(self) -> int:
        """Packets that the kernel had no room for."""
        return int(self.summary["kernel_dropped"])

    @property
    def accounted(self) -> bool:
        """Whether every packet that arrived is sent, acknowledged, or told as dropped."""
        packets = self.summary["packets"]
        held = self.messages == self.summary["messages"]["packets"]
        return packets["seen"] == self.arrived and packets["acked"] + self.dropped == self.arrived and held

    @property
    def holds(self) -> bool:
        """Whether nothing was dropped, and the generator kept up."""
        return self.accounted and not self.dropped and not self.lost_before and self.rate >= 0.97 * self.asked

    def as_dict(self) -> dict[str, Any]:
        """Return the run for ``--json``."""
        memory = self.resident_kib
        return {
            "asked_per_s": round(self.asked),
            "arrived_per_s": round(self.rate),
            "arrived": self.arrived,
            "lost_before_interface": self.lost_before,
            "kernel_dropped": self.dropped,
            "acked": self.summary["packets"]["acked"],
            "accounted": self.accounted,
            "seconds": round(self.seconds, 2),
            "cpu_s": self.cpu_s,
            "probe_waited_for_core_s": round(self.waited_s, 2),
            "ring_full": self.summary["events"].get("ring_full", 0),
            "turn_max_ms": round(self.summary["turn_max_ms"], 1),
            "bus_waits": self.summary["bus_waits"],
            "probe_resident_mib": [m >> 10 for m in (memory[0], memory[len(memory) // 2], memory[-1])]
            if memory
            else [],
        }


def capture(setup: Setup, on_step: Callable[[str], None]) -> Result:
    """Measure; the value is the highest rate at which nothing was dropped.

    Raises:
        SettingsError: no root, or no network namespaces.
        BusError: no Java, or a process failed.
        BpfError: the kernel is too old for the generator.
    """
    if reason := can_make_namespaces():
        raise SettingsError(f"the stage capture needs namespaces: {reason}")
    runs: list[Run] = []
    with _scene(setup, on_step) as scene:
        seconds, rate = setup.seconds, float(setup.rate)
        for _ in range(_MOST_STEPS):
            on_step(f"{rate:,.0f} packets/s for {seconds:.0f} s")
            runs.append(scene.run(rate, seconds))
            if not runs[-1].holds:
                break
            seconds, rate = min(_STEP_SECONDS, setup.seconds), rate * STEP
    best = max((run.rate for run in runs if run.holds), default=0.0)
    first = runs[0]
    return Result(
        "capture_zero_drop",
        best,
        "packets/s",
        details={
            "accounted": all(run.accounted for run in runs),
            "bus": "Apache Kafka, one node on this machine",
            "first": first.as_dict(),
            "runs": [run.as_dict() for run in runs],
        },
    )


@contextmanager
def _scene(setup: Setup, on_step: Callable[[str], None]) -> Iterator[_Scene]:
    bus = setup.bus.model_copy(update={"topic_prefix": f"bench-{uuid.uuid4().hex[:8]}."})
    with Wire() as wire:
        on_step("starting Apache Kafka")
        # Broker, probe and our own clients live where the wire is seen; the generator at its other end.
        with entered(wire.probe):
            held = receive_in_batches(SEEING)
            try:
                with KafkaBroker() as broker:
                    chosen = bus.model_copy(update={"bootstrap": broker.bootstrap})
                    with bench_topics(chosen, setup.streams, False):
                        yield _Scene(wire, chosen, broker.pid, setup.passed_on)
            finally:
                os.close(held)


class _Scene:
    """Everything between two runs."""

    def __init__(
        self, wire: Wire, bus: BusSettings, broker_pid: int | None, passed_on: Sequence[str]
    ) -> None:
        self._wire, self._bus, self._broker_pid = wire, bus, broker_pid or 0
        self._passed_on = passed_on
        self._admin = AdminClient({"bootstrap.servers": bus.bootstrap, "log_level": 0})

    def run(self, rate: float, seconds: float) -> Run:
        """Send at a rate and return what became of the packets."""
        reader = BusReader(self._bus)
        try:
            messages, heard = self._messages(reader), reader.end(TELEMETRY_COST, 0)
            with Child("flowgauge probe", self._probe()) as probe:
                self._wait_ready(reader, probe, heard)
                before, waited_s = self._wire.arrived(), _waited_s(probe.pid)
                cpu = {"probe": probe.cpu_s() or 0.0, "broker": cpu_seconds(self._broker_pid) or 0.0}
                command = [sys.executable, "-m", "infra.lab.generator", SENDING]
                command += ["--rate", str(rate), "--seconds", str(seconds)]
                with Child("generator", inside(self._wire.sender, *command)) as generator:
                    memory = self._watch(generator, probe)
                    sent = json.loads(generator.wait(30.0))
                after, waited_s = self._wire.arrived(), _waited_s(probe.pid) - waited_s
                cpu = {
                    "probe": round((probe.cpu_s() or 0.0) - cpu["probe"], 2),
                    "broker": round((cpu_seconds(self._broker_pid) or 0.0) - cpu["broker"], 2),
                    "generator": round(sent["cpu_s"], 2),
                }
                probe.terminate()
                summary = json.loads(probe.wait(_READY_TIMEOUT_S))
            arrived = after[0] - before[0]
            return Run(
                rate,
                arrived,
                int(sent["packets"]) - arrived,
                sent["seconds"],
                summary,
                self._messages(reader) - messages,
                cpu,
                waited_s,
                memory,
            )
        finally:
            reader.close()

    def _probe(self) -> list[str]:
        return [
            *(sys.executable, "-m", "flowgauge", "probe", "--interface", SEEING, "--json", *self._passed_on),
            *("--bus", self._bus.bootstrap, "--set", f"bus.topic_prefix={self._bus.topic_prefix}"),
        ]

    def _wait_ready(self, reader: BusReader, probe: Child, heard: int) -> None:
        """Wait for the probe's first telemetry."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while reader.end(TELEMETRY_COST, 0) == heard:
            if not probe.running:
                raise probe.failure()
            if time.monotonic() > deadline:
                raise BusError(f"the probe said nothing for {_READY_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)

    def _watch(self, generator: Child, probe: Child) -> list[int]:
        """Wait for the generator's end; return the probe's memory second by second."""
        memory: list[int] = []
        trimmed_s = time.monotonic()
        while generator.running:
            if not probe.running:
                raise probe.failure()
            memory.append(_resident_kib(probe.pid))
            if time.monotonic() - trimmed_s > _TRIM_S:
                trimmed_s = time.monotonic()
                self._trim()
            time.sleep(1.0)
        return memory

    def _trim(self) -> None:
        """Have the broker delete what it has of packets: their count stays in the offsets."""
        topic = topic_name(self._bus, PACKETS)
        where = [TopicPartition(topic, number, -1) for number in range(self._bus.partitions)]
        for done in self._admin.delete_records(where).values():
            try:
                done.result(timeout=10)
            except KafkaException as error:
                raise BusError(f"topic {topic}: cannot be trimmed: {error.args[0].str()}") from error

    def _messages(self, reader: BusReader) -> int:
        return sum(reader.end(PACKETS, number) for number in range(self._bus.partitions))


def _waited_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
