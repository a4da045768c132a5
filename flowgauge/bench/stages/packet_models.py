"""``packet_models``: LSTMs of the study's sizes, exported from Keras, beside ``keras.predict`` in the same run.

Rates are of one core, of full packets and, where it says so, of the capture's, most of which are short. The latency is
that of a worker process on a real broker that has been under load, as brokers are, from a payload's sending to its
prediction in the hands of another program, at half of what all of them together sustain: sender, broker, worker and
reader share the cores.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgauge.bench.accounting import BusReader
from flowgauge.bench.children import Child, output_of
from flowgauge.bench.corpus import Corpus
from flowgauge.bench.keras_lstm import BUDGETS, VERSION
from flowgauge.bench.results import Result, measure
from flowgauge.bench.stages.bus import bench_topics, kafka
from flowgauge.bench.stages.latency import Reader
from models.packet.announce import announce
from models.packet.library import Library
from models.packet.quantize import write_version
from models.packet.runtime import PacketModel, open_model, smoke_vectors
from producers.bus import BusProducer
from producers.config import BusSettings, PayloadSettings, topic_name
from producers.followed import FlowRules
from producers.payloads.stream import PayloadStream
from producers.sources.capture import open_capture
from schemas.codec import decode
from schemas.errors import BusError, InputError, SettingsError
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS, PayloadBatch
from schemas.topics import PAYLOADS, PREDICTIONS_PACKET, TELEMETRY_COST
from streams.config import StreamsSettings

BATCH = 256
DRAWN_FROM = 32_768
"""Packets of the capture that a batch is drawn from."""
SERVED = "lstm_15k"
"""The model that the latency is measured with."""
PARTITIONS = 2
ROWS = 32
"""Packets of a payload message."""
FLOWS = 8
"""Flows that they are of."""
OUTSTANDING_PACKETS = 4096
"""Packets sent and not yet read, while capacity is measured: the worker never waits, and no queue grows."""
WARM_MESSAGES = 16
BROKER_WARM_S = 30.0
"""For how long payloads are sent before anything counts: so long does a broker under load compile its own code."""
BROKER_WARM_PACKETS_PER_S = 4096
CAPACITY_S = 8.0
WARM_S = 3.0
_READY_S = 120.0
_QUIET_S = 2.0
_POLL_S = 0.02
_SLEEP_S = 0.001
_HOPS = ("bus_to_model_ns", "queue_ns", "model_ns")


@dataclass(frozen=True)
class Setup:
    """What is run."""

    streams: StreamsSettings
    bus: BusSettings
    min_seconds: float
    seconds: float
    """For how long payloads are sent at half of the worker's capacity."""
    external: bool
    passed_on: tuple[str, ...] = ()


def packet_models(corpus: Corpus, setup: Setup, on_step: Callable[[str], None]) -> list[Result]:
    """Measure rates and latency; ``corpus`` is where packets as long as real ones come from.

    Raises:
        SettingsError: Keras, TensorFlow or ONNX Runtime is not installed.
        BusError: no broker, no Java, or a process failed.
    """
    absent = [
        name
        for name in ("keras", "tensorflow", "tf2onnx", "onnxruntime")
        if not importlib.util.find_spec(name)
    ]
    if absent:
        raise SettingsError(
            f"stage packet_models: {', '.join(absent)} not installed: pip install 'flowgauge[study,packet]'"
        )
    with TemporaryDirectory(prefix="flowgauge-bench-") as scratch:
        on_step("exporting LSTMs from Keras, and timing keras.predict")
        command = [sys.executable, "-m", "flowgauge.bench.keras_lstm", scratch]
        baseline: dict[str, float] = json.loads(output_of(command).splitlines()[-1])
        found, captured = [], _captured(corpus)
        for name in BUDGETS:
            on_step(f"measuring {name}")
            model = open_model(Path(scratch) / name / VERSION)
            full = smoke_vectors(BATCH + 1)[1:]
            for title, each in ((name, model), (f"{name}_int16", _in_16_bits(Path(scratch), model))):
                if name in baseline:
                    found.append(_single(title, each, baseline[name], setup.min_seconds))
                found.append(_batch(f"{title}_batch{BATCH}", each, full, setup.min_seconds))
            found.append(_batch(f"{name}_captured", model, captured, setup.min_seconds))
        return [*found, _latency(Path(scratch), setup, on_step)]


def _in_16_bits(scratch: Path, model: PacketModel) -> PacketModel:
    """Return a model's int16 version, as ``flowgauge packet-models quantize`` makes it."""
    draft = scratch / "int16" / model.card.name
    draft.mkdir(parents=True)
    write_version(scratch / model.card.name / model.card.version, draft, model, "int16")
    return open_model(draft)


def _single(name: str, model: PacketModel, keras_rate: float, min_seconds: float) -> Result:
    vector = smoke_vectors(2)[1:]
    rate = measure(lambda: _repeat(model, vector, 20), min_seconds)
    ratio = rate.value / keras_rate
    return Result(
        f"{name}_single",
        ratio,
        "× keras.predict",
        spread=(rate.least / keras_rate, rate.most / keras_rate),
        repeats=rate.repeats,
        details={
            "ratio": ratio,
            "packets_per_s": round(rate.value),
            "packets_per_cpu_s": round(rate.cpu_value),
            "keras_predict_packets_per_s": round(keras_rate, 1),
            "parameters": model.card.parameters,
        },
    )


def _batch(name: str, model: PacketModel, vectors: NDArray[np.uint8], min_seconds: float) -> Result:
    rate = measure(lambda: _repeat(model, vectors, 1), min_seconds)
    octets = round(float((FIRST_OCTETS - (vectors[:, ::-1] != 0).argmax(axis=1)).mean()))
    return Result.of_rate(name, rate, parameters=model.card.parameters, octets_filled=octets)


def _captured(corpus: Corpus) -> NDArray[np.uint8]:
    """Return a batch of packets as a probe would send them, drawn from the corpus.

    Raises:
        InputError: it has no payload.
    """
    found: list[NDArray[np.uint8]] = []
    every = PayloadSettings(mode="sample", one_in=1)
    stream = PayloadStream(
        "bench", every, FlowRules(), 1, 0, lambda b: found.append(b.vectors()), replayed=True
    )
    with open_capture(str(corpus.paths[0])) as capture:
        for block in capture.blocks(tap=stream.sampler):
            stream.add("", block, (0, block.packets), 0, 0)
            if sum(map(len, found)) >= DRAWN_FROM:
                break
    stream.flush()
    vectors = np.concatenate(found) if found else np.empty((0, FIRST_OCTETS), np.uint8)
    if not len(vectors):
        raise InputError(f"{corpus.captures[0]}: no packet with payload for the stage packet_models")
    return np.random.default_rng(1).choice(vectors, BATCH)


def _repeat(model: PacketModel, vectors: Any, times: int) -> int:
    for _ in range(times):
        model.predict(vectors)
    return times * len(vectors)


def _latency(folder: Path, setup: Setup, on_step: Callable[[str], None]) -> Result:
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    with kafka(setup.bus, setup.external, on_step, lasting=True) as (bootstrap, _):
        update = {"bootstrap": bootstrap, "topic_prefix": prefix, "partitions": PARTITIONS}
        bus = setup.bus.model_copy(update=update)
        with bench_topics(bus, setup.streams, setup.external), _serving(folder, bus, setup) as reader:
            sender = _Sender(bus)
            _drain(reader, sender.send_evenly(WARM_MESSAGES, WARM_MESSAGES * ROWS))
            on_step(f"sending payloads for {BROKER_WARM_S:g} s, until the broker has compiled its code")
            reader.arrivals.clear()
            warm_rate = BROKER_WARM_PACKETS_PER_S
            messages = round(BROKER_WARM_S * warm_rate / ROWS)
            _drain(reader, _send_beside(reader, partial(sender.send_evenly, messages, warm_rate)))
            on_step(f"sending payloads for {CAPACITY_S:g} s as fast as their predictions come")
            reader.arrivals.clear()
            capacity = _capacity(sender, reader)
            on_step(f"sending payloads for {setup.seconds:g} s at half of {capacity:,.0f}/s")
            reader.arrivals.clear()
            messages = round(setup.seconds * capacity / 2 / ROWS)
            sent = _send_beside(reader, partial(sender.send_evenly, messages, capacity / 2))
            _drain(reader, sent)
            return _latency_result(reader, sent, capacity)


def _capacity(sender: _Sender, reader: Reader) -> float:
    """Return how many packets a second come back, for as long as it takes: the first seconds do not count."""
    end_s = time.monotonic() + CAPACITY_S
    sent = _send_beside(reader, lambda: sender.send_all(end_s, lambda: len(reader.arrivals)))
    in_time = [at_ns for at_ns, _ in reader.arrivals]
    _drain(reader, sent)
    begin_ns = in_time[0] + round(WARM_S * 1e9)
    measured = sum(at_ns >= begin_ns for at_ns in in_time)
    return measured / max((in_time[-1] - begin_ns) / 1e9, 1e-3)


def _send_beside(reader: Reader, send: Callable[[], int]) -> int:
    """Send in a thread while the predictions are read; return how many packets were sent."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        while not sent.done():
            reader.read(_POLL_S)
        return sent.result()


@contextmanager
def _serving(folder: Path, bus: BusSettings, setup: Setup) -> Iterator[Reader]:
    """Run a worker with the model announced, and give a reader of its predictions."""
    library = Library(folder)
    sink = BusProducer(bus)
    card = library.add(library.folder(SERVED, VERSION))
    announce(card, library.place(SERVED, VERSION), bus, sink)
    command = [sys.executable, "-m", "flowgauge", "packet-models", "serve", "--json", *setup.passed_on]
    command += ["--bus", bus.bootstrap, "--name", SERVED, "--library", str(folder)]
    for key, value in (("bus.topic_prefix", bus.topic_prefix), ("bus.partitions", bus.partitions)):
        command += ["--set", f"{key}={value}"]
    reader = Reader(bus, PREDICTIONS_PACKET)
    try:
        with Child("flowgauge packet-models", command) as worker:
            _wait_ready(bus, worker)
            yield reader
            worker.terminate()
            worker.wait(_READY_S)
    finally:
        reader.close()


def _wait_ready(bus: BusSettings, worker: Child) -> None:
    reader = BusReader(bus)
    try:
        deadline = time.monotonic() + _READY_S
        while not reader.end(TELEMETRY_COST, 0):
            if not worker.running:
                raise worker.failure()
            if time.monotonic() > deadline:
                raise BusError(f"the packet model worker had no partitions after {_READY_S:.0f} s")
            time.sleep(0.2)
    finally:
        reader.close()


class _Sender:
    """A probe that sends payload batches of random octets."""

    def __init__(self, bus: BusSettings) -> None:
        self._bus, self._sink = bus, BusProducer(bus)
        self._epoch = time.time_ns()
        self._messages = 0
        self._columns = _columns()

    def send_evenly(self, messages: int, packets_per_s: float) -> int:
        """Send messages at a steady rate; return how many packets they hold."""
        began_s = time.monotonic()
        for i in range(messages):
            due_s = began_s + i * ROWS / packets_per_s
            while (left_s := due_s - time.monotonic()) > 0:
                time.sleep(min(left_s, _SLEEP_S))
            self._send()
        return self._flushed(messages)

    def send_all(self, end_s: float, came: Callable[[], int]) -> int:
        """Send until ``end_s`` whenever all but ``OUTSTANDING_PACKETS`` came back; return how many packets."""
        messages = 0
        while time.monotonic() < end_s:
            if messages * ROWS - came() >= OUTSTANDING_PACKETS:
                time.sleep(_SLEEP_S)
                continue
            self._send()
            messages += 1
        return self._flushed(messages)

    def _send(self) -> None:
        batch = self._batch().sealed(time.time_ns())
        self._sink.produce(topic_name(self._bus, PAYLOADS), batch.encode(), batch.partition)
        self._sink.check()

    def _flushed(self, messages: int) -> int:
        if self._sink.flush(_READY_S):
            raise BusError("payloads were not acknowledged")
        return messages * ROWS

    def _batch(self) -> PayloadBatch:
        number, self._messages = self._messages, self._messages + 1
        partition = number % self._bus.partitions
        top = np.uint64(partition * (1 << 16) // self._bus.partitions) << np.uint64(48)
        columns = dict(self._columns)
        columns["flow_id"] = top | (np.arange(FLOWS, dtype="<u8") + np.uint64(number // 16 * FLOWS))
        columns["packet_number"] = columns["packet_number"] + np.uint32(number % 16 * ROWS)
        return PayloadBatch(
            "bench", self._epoch, partition, self._bus.partitions, number // self._bus.partitions, 0, columns
        )


def _columns() -> dict[str, Any]:
    """Return the columns of a message: ROWS whole packets of FLOWS flows."""
    octets = FIRST_OCTETS - MASKED_OCTETS
    address = np.zeros((FLOWS, 16), "u1")
    address[:, 0], address[:, 3] = 10, np.arange(FLOWS)
    return {
        "start_ns": np.full(FLOWS, time.time_ns(), "<i8"),
        "address_a": address,
        "address_b": address + np.uint8(1),
        "port_a": np.full(FLOWS, 443, "<u2"),
        "port_b": np.full(FLOWS, 50_000, "<u2"),
        "protocol": np.full(FLOWS, 17, "u1"),
        "ip_version": np.full(FLOWS, 4, "u1"),
        "first_direction": np.ones(FLOWS, "u1"),
        "flow_index": (np.arange(ROWS) % FLOWS).astype("<u2"),
        "time_ns": time.time_ns() + np.arange(ROWS, dtype="<i8"),
        "packet_number": np.arange(1, ROWS + 1, dtype="<u4"),
        "octets": np.full(ROWS, FIRST_OCTETS, "<u4"),
        "transport_octets": np.full(ROWS, 8, "<u2"),
        "length": np.full(ROWS, octets, "<u2"),
        "direction": np.zeros(ROWS, "u1"),
        "handshake": np.zeros(ROWS, "u1"),
        "payload": np.random.default_rng(1).integers(1, 256, ROWS * octets, np.uint8),
    }


def _drain(reader: Reader, packets: int) -> None:
    """Read until as many predictions as packets have come, and whether more come."""
    while len(reader.arrivals) < packets:
        if not reader.read(_READY_S / 4):
            raise BusError(f"{len(reader.arrivals):,} of {packets:,} predictions came")
    reader.read_until_quiet(_QUIET_S)


def _latency_result(reader: Reader, sent: int, capacity: float) -> Result:
    records = [(at_ns, decode("PacketPrediction", value)) for at_ns, value in reader.arrivals]
    begin_ns = records[0][0] + round(WARM_S * 1e9)
    measured = [(at_ns, r) for at_ns, r in records if at_ns >= begin_ns]
    if not measured:
        raise BusError(f"all predictions came within the first {WARM_S:g} s; measure for longer")
    total_ms = np.array([at_ns - r["probe_time_ns"] for at_ns, r in measured]) / 1e6
    hops_ms = {name: np.array([r[name] for _, r in measured]) / 1e6 for name in _HOPS}
    hops_ms["bus_to_reader_ns"] = total_ms - sum(hops_ms.values())
    ids = {r["prediction_id"] for _, r in records}
    return Result(
        "packet_latency_p99_ms",
        round(float(np.quantile(total_ms, 0.99)), 3),
        "ms",
        details={
            "accounted": len(ids) == sent == len(records),
            "p50_ms": round(float(np.quantile(total_ms, 0.5)), 3),
            "hops_ms": {
                name.removesuffix("_ns"): {
                    f"p{share:g}": round(float(np.quantile(values, share / 100)), 3) for share in (50, 99)
                }
                for name, values in hops_ms.items()
            },
            "predictions": len(measured),
            "capacity_packets_per_s": round(capacity),
            "packets_per_s": round(capacity / 2),
            "model": SERVED,
        },
    )
