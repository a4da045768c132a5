"""The run of ``flowgauge bench serve``: trains, sends at a rate, serves, reads, and holds it all against each other."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgauge.bench.accounting import BusReader
from flowgauge.bench.children import Child, cpu_seconds
from flowgauge.bench.machine import describe
from flowgauge.bench.run import DEMO_CAPTURE
from flowgauge.bench.serve.generator import Given, plan_flows, save_plan
from flowgauge.bench.serve.score import MISS, answers, flow_ids, latencies, weighted_f1
from flowgauge.bench.serve.templates import (
    PROBE,
    RowsAt,
    Templates,
    labels_beside,
    read_templates,
    rows_at,
)
from flowgauge.bench.serve.train import FEATURES, NAME, REPRESENTATION, VERSION, split, train
from flowgauge.bench.stages.bus import bench_topics, kafka
from flowgauge.bench.stages.latency import Reader
from flowgauge.outcome import FAILED, OK, tell
from flowgauge.settings import Effective
from flowgauge.settings_values import toml_value
from models.flow.bundle import open_cascade
from models.flow.card import read_cascade_card
from models.flow.cascade import Cascade
from models.packet.announce import announce
from producers.bus import BusProducer
from producers.config import BusSettings, PacketsSettings
from producers.first_packets import Selection
from schemas.codec import decode
from schemas.errors import BusError, SettingsError
from schemas.flow_key import probe_hash_of
from schemas.topics import PREDICTIONS_FLOW, TELEMETRY_COST
from streams.config import RepresentationSettings, StreamsSettings
from streams.flow_rules import first_packets

WARM_S = 3.0
"""For so long a tenth of the rate is sent first: code is read from disk. Those flows are neither in rates nor in
latencies, but among misses and in F1."""
READY_TIMEOUT_S = 180.0
MOST_FLOWS = 1 << 24
"""Addresses that sources are given out of."""
IDLE_TIMEOUT_S = 10.0
_QUIET_S = 2.0
_AFTER_WAIT_S = 0.5
"""Beyond the longest wait, flows that have begun go on for so long."""
_POLL_S = 0.02


_TOGETHER = {"cascade": ["cascade", "serve", "--with-flows"]}
_APART = {"flows": ["streams"], "cascade": ["cascade", "serve"]}
"""Commands of the workers, by stage."""


@dataclass(frozen=True)
class ServeOptions:
    """What to measure."""

    rate: int
    """New flows per second."""
    seconds: float
    workers: int = 1
    """Of each stage."""
    depths: tuple[int, int] = (1, 10)
    wait_s: float = 5.0
    linger_ms: float = 5.0
    first_packets: int = 0
    """Of each flow, as ``packets.first_packets``; 0: all."""
    seed: int = 1
    apart: bool = False
    """Flows workers and cascade workers are processes of their own, with a hop over the bus between."""
    external_bus: bool = False
    partitions: int = 0
    """0: as many as workers."""
    passed_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Load:
    """What is sent."""

    given: Given
    begins_ns: NDArray[np.int64]
    template: NDArray[np.int32]
    all_slow: NDArray[np.int64]
    """(templates,) what the slow tier would say."""
    templates: Templates

    @property
    def truth(self) -> NDArray[np.int64]:
        return self.templates.label[self.template]


@dataclass(frozen=True)
class _Run:
    arrivals: list[tuple[int, bytes]]
    sent: dict[str, Any]
    counters: dict[str, dict[str, int]]
    cpu_s: dict[str, float]
    rss_mb: dict[str, float]


def serve(
    effective: Effective,
    captures: Sequence[str],
    labels: Sequence[str],
    runs: Sequence[ServeOptions],
    as_json: bool,
) -> int:
    """Measure each of the runs and print; the exit code is 1 where a flow got no final answer, or more than one.

    Raises:
        InputError: a capture or labels file that cannot be used.
        BusError: no broker, no Java, or a process failed.
        SettingsError: more flows than there are addresses.
    """
    machine = describe()
    found = [measure(effective, captures, labels, options, _step) for options in runs]
    if as_json:
        print(json.dumps({"machine": machine, **(found[0] if len(found) == 1 else {"runs": found})}))
    else:
        from flowgauge.bench.serve.report import show

        show(machine, found)
    if any(one["misses"] or one["answered_twice"] or one["batches_missing"] for one in found):
        tell("flowgauge: not every flow got just one final answer: see above")
        return FAILED
    return OK


def _step(what: str) -> None:
    print(f"flowgauge: {what}", file=sys.stderr, flush=True)


def measure(
    effective: Effective,
    captures: Sequence[str],
    labels: Sequence[str],
    options: ServeOptions,
    on_step: Callable[[str], None],
) -> dict[str, Any]:
    """Return all figures of one run, as ``--json`` prints them; raises as ``serve`` does."""
    if options.rate * options.seconds > MOST_FLOWS:
        raise SettingsError(
            f"more than {MOST_FLOWS:,} flows in a run: a lower --rate or a shorter --duration"
        )
    paths = list(captures) or [str(DEMO_CAPTURE)]
    files = list(labels) or [str(labels_beside(path)) for path in paths]
    if len(files) != len(paths):
        raise SettingsError(
            f"{len(files)} labels files for {len(paths)} captures: one for each, in their order"
        )
    streams = _streams(effective.get("streams", StreamsSettings), options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowgauge-serve-")))
        on_step("training a cascade on half of the labelled flows")
        load, cascade = _prepare(folder, paths, files, streams, options)
        on_step(
            f"{len(cascade.card.tiers)} tiers, {cascade.shares[0]:.0%} are tuned to escalate; "
            f"{load.templates.flows:,} flows to send"
        )
        chosen = effective.get("bus", BusSettings)
        bootstrap, broker = stack.enter_context(kafka(chosen, options.external_bus, on_step))
        prefix = f"bench-{uuid.uuid4().hex[:8]}."
        partitions = options.partitions or options.workers
        bus = chosen.model_copy(
            update={"bootstrap": bootstrap, "topic_prefix": prefix, "partitions": partitions}
        )
        stack.enter_context(bench_topics(bus, streams, options.external_bus))
        _publish(folder, bus)
        on_step(f"{options.rate:,} new flows a second for {options.seconds:g} s through {bootstrap}")
        run = _run(folder, load, bus, streams, options, broker)
    on_step("reading what was answered")
    return _figures(run, load, cascade, options, partitions)


def _streams(given: StreamsSettings, options: ServeOptions) -> StreamsSettings:
    """Return the flows agent's settings: the rows that the tiers need, and room for all flows of the run."""
    representation = RepresentationSettings(
        name=REPRESENTATION, kind="early", features=FEATURES, depths=options.depths, ends=True
    )
    return given.model_copy(
        update={
            "representations": (representation,),
            "services": (),
            "idle_timeout_s": IDLE_TIMEOUT_S,
            "max_flows": 1 << 20,
            "compression": "none",
        }
    )


def _selection(streams: StreamsSettings, options: ServeOptions) -> Selection | None:
    """Return which packets the generator sends; None: all."""
    packets = PacketsSettings(first_packets=options.first_packets, max_flows=streams.max_flows)
    return first_packets(packets, streams)


def _prepare(
    folder: Path,
    captures: Sequence[str],
    labels: Sequence[str],
    streams: StreamsSettings,
    options: ServeOptions,
) -> tuple[_Load, Cascade]:
    selection = _selection(streams, options)
    # A flow whose last packets before a silence were left out ends that much earlier.
    unheard_s = 0.0 if selection is None else selection.sign_of_life_ns / 1e9
    templates = read_templates(captures, labels, IDLE_TIMEOUT_S - unheard_s)
    rows = rows_at(templates, captures, streams, REPRESENTATION, options.wait_s)
    mine, others = split(templates.label, options.seed)
    where = train(
        folder / "library",
        templates.classes,
        templates.label[mine],
        {depth: _some(at, mine) for depth, at in rows.items()},
        options.depths,
        options.wait_s,
    )
    cascade = open_cascade(where)
    sent = templates.take(others)
    begins_ns, template = plan_flows(sent.flows, options.rate, options.seconds, options.seed, WARM_S)
    given = Given(
        sent.first,
        sent.offset_ns,
        sent.protocol,
        sent.ip_version,
        sent.source_port,
        sent.destination_port,
        **sent.packets,
    )
    save_plan(folder / "plan.npz", {**given._asdict(), "begins_ns": begins_ns, "template": template})
    tested = {depth: _some(at, others) for depth, at in rows.items()}
    return _Load(given, begins_ns, template, _all_slow(cascade, tested), sent), cascade


def _some(at: RowsAt, flows: NDArray[np.int64]) -> RowsAt:
    return replace(at, values=at.values[flows], reached=at.reached[flows])


def _all_slow(cascade: Cascade, rows: dict[int, RowsAt]) -> NDArray[np.int64]:
    """Return what each flow is if all go to the slow tier; those that never get there are answered by the fast one."""
    out: NDArray[np.int64] | None = None
    for number, tier in enumerate(cascade.tiers):
        if tier is None:
            continue
        at = rows[tier.depth]
        answer = cascade.answer(number, at.values[:, tier.places(at.columns)])
        said = np.where(answer.unknown, MISS, answer.classes)
        out = said if out is None else np.where(at.reached, said, out)
    return np.empty(0, np.int64) if out is None else out


def _publish(folder: Path, bus: BusSettings) -> None:
    where = folder / "library" / NAME / VERSION
    sink = BusProducer(bus)
    sink.connect()
    announce(read_cascade_card(where), str(where), bus, sink)


def _run(
    folder: Path,
    load: _Load,
    bus: BusSettings,
    streams: StreamsSettings,
    options: ServeOptions,
    broker: int | None,
) -> _Run:
    common = ["--json", *options.passed_on, "--bus", bus.bootstrap]
    sets = {
        "bus.topic_prefix": bus.topic_prefix,
        "bus.partitions": bus.partitions,
        "streams.representations": [streams.representations[0].model_dump(mode="json")],
        "streams.idle_timeout_s": streams.idle_timeout_s,
        "streams.max_flows": streams.max_flows,
        "streams.compression": streams.compression,
        "cascade.name": NAME,
        "cascade.library": str(folder / "library"),
    }
    for key, value in sets.items():
        common += ["--set", f"{key}={value if isinstance(value, str) else toml_value(value)}"]
    flowgauge = [sys.executable, "-m", "flowgauge"]
    work = {
        "bus": bus.model_dump(mode="json"),
        "templates": str(folder / "plan.npz"),
        "seconds": WARM_S + options.seconds,
        "linger_ms": options.linger_ms,
        "drain_s": options.wait_s + _AFTER_WAIT_S,
        "begun": str(folder / "begun"),
        "selection": _selection(streams, options),
    }
    reader = Reader(bus, PREDICTIONS_FLOW)
    try:
        with ExitStack() as stack:
            workers: dict[str, Child] = {}
            stages = _APART if options.apart else _TOGETHER
            for stage, command in stages.items():
                for number in range(options.workers):
                    child = Child(f"flowgauge {' '.join(command)}", [*flowgauge, *command, *common])
                    workers[f"{stage} {number + 1}"] = stack.enter_context(child)
            _wait_ready(bus, workers)
            pids = {"broker": broker, **{name: child.pid for name, child in workers.items()}}
            before, own_s = _cpu(pids), time.thread_time()
            generator = [sys.executable, "-m", "flowgauge.bench.serve.generator", json.dumps(work)]
            sender = stack.enter_context(Child("the generator", generator))
            begun = folder / "begun"
            while sender.running and not begun.exists():
                reader.read(_POLL_S)
                _check(workers)
            cpu_s = {name: round(seconds - before[name], 2) for name, seconds in _cpu(pids).items()}
            cpu_s["reader"] = round(time.thread_time() - own_s, 2)
            rss_mb = _rss(pids)
            while sender.running:
                reader.read(_POLL_S)
                _check(workers)
            sent = json.loads(sender.wait(0.0))
            reader.read_until_quiet(_QUIET_S)
            for child in workers.values():
                child.terminate()
            said = {name: json.loads(child.wait(READY_TIMEOUT_S)) for name, child in workers.items()}
        reader.read_until_quiet(_QUIET_S)
    finally:
        reader.close()
    cpu_s["generator"] = round(sent["cpu_s"], 2)
    return _Run(reader.arrivals, sent, {n: words["counters"] for n, words in said.items()}, cpu_s, rss_mb)


def _check(workers: dict[str, Child]) -> None:
    for worker in workers.values():
        if not worker.running:
            raise worker.failure()


def _wait_ready(bus: BusSettings, workers: dict[str, Child]) -> None:
    """Wait until all workers have told costs: they do so once they have their partitions."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        reader = BusReader(bus)
        try:
            told = {decode("CostTelemetry", value)["instance"] for value in reader.read(TELEMETRY_COST, 0)}
        finally:
            reader.close()
        if len(told) >= len(workers):
            return
        _check(workers)
        if time.monotonic() > deadline:
            raise BusError(f"the workers had no partitions after {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.5)


def _cpu(pids: dict[str, int | None]) -> dict[str, float]:
    """Return the CPU seconds of each process that can be told."""
    taken = {name: cpu_seconds(pid) for name, pid in pids.items() if pid is not None}
    return {name: seconds for name, seconds in taken.items() if seconds is not None}


def _rss(pids: dict[str, int | None]) -> dict[str, float]:
    """Return the resident memory of each process in MiB, where the system tells."""
    out = {}
    for name, pid in pids.items():
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            continue
        out[name] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
    return out


def _figures(
    run: _Run, load: _Load, cascade: Cascade, options: ServeOptions, partitions: int
) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    sent, flows = run.sent, run.sent["flows"]
    begins_ns = load.begins_ns[:flows]
    ids = flow_ids(load.given, load.template[:flows], sent["begun_ns"] + begins_ns, probe_hash_of(PROBE))
    found = answers(run.arrivals, ids, cascade.classes)
    truth, slow = load.truth[:flows], load.all_slow[load.template[:flows]]
    classes = len(cascade.classes)
    f1, f1_slow = weighted_f1(truth, found.said, classes), weighted_f1(truth, slow, classes)
    tiers = [tier.name for tier in cascade.card.tiers]
    warm_ns = round(WARM_S * 1e9)
    measured = begins_ns >= warm_ns
    counted = int(measured.sum())
    begun_ns, seconds = sent["begun_ns"] + warm_ns, sent["seconds"] - WARM_S
    # How late answers were that no wait held up, when the last flows had begun.
    over_ns = begun_ns + seconds * 1e9
    last = (found.packet_ns > over_ns - 1e9) & (found.packet_ns <= over_ns)
    last &= found.latency_ns < options.wait_s * 1e9
    behind_s = int(found.latency_ns[last].max(initial=0)) / 1e9
    answered = int((found.arrived_ns[measured] > 0).sum())
    serving = sum(seconds for name, seconds in run.cpu_s.items() if name not in ("reader", "generator"))
    summed = _summed(run.counters)
    return {
        "rate": options.rate,
        "flows": flows,
        "flows_offered_per_s": round(counted / seconds, 1),
        "flows_served_per_s": round(answered / (seconds + behind_s), 1),
        "misses": found.misses,
        "answered_twice": found.contradicted,
        "repeated": found.repeated,
        **latencies(found, measured, tiers),
        "f1": round(f1, 4),
        "f1_all_slow": round(f1_slow, 4),
        "f1_below_all_slow": round(f1_slow - f1, 4),
        "share_escalated": round(float(found.escalated.mean()), 4),
        "share_tuned": round(cascade.thresholds.shares[0], 4),
        "unknown": found.unknown,
        "provisional": found.provisional,
        "cpu_us_per_flow": round(1e6 * serving / max(1, flows), 2),
        "cpu_share": {name: round(seconds / sent["seconds"], 3) for name, seconds in run.cpu_s.items()},
        "rss_mb": run.rss_mb,
        "packets_per_s": round(sent["packets"] / sent["seconds"]),
        "packets_sent_per_s": round(sent["packets_sent"] / sent["seconds"]),
        "first_packets": options.first_packets,
        "generator_late_max_ms": round(sent["late_max_ms"], 1),
        "behind_s": round(behind_s, 2),
        "batches_missing": summed.get("batches_missing", 0),
        "partitions": partitions,
        "workers": options.workers,
        "seconds": round(sent["seconds"], 2),
        "apart": options.apart,
        "counters": summed,
    }


def _summed(counters: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return what all workers counted together."""
    return dict(sum((Counter(counts) for counts in counters.values()), Counter[str]()))
