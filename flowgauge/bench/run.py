"""The run of ``flowgauge bench``: makes the input, measures the stages asked for, reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import infra.lab
from flowgauge.bench.corpus import MAX_OCTETS, TARGET_PACKETS, Corpus, make_corpus
from flowgauge.bench.machine import describe
from flowgauge.bench.peers import DPKT, HINT, NFSTREAM, add_peer, missing
from flowgauge.bench.results import Result
from flowgauge.outcome import FAILED, OK, tell
from flowgauge.settings import DEFAULT, Effective
from models.online.config import OnlineSettings
from producers.config import BusSettings
from schemas.errors import InputError, SettingsError
from streams.config import StreamsSettings

STAGES = (
    "decode", "flows", "encode", "agent", "bus", "state", "features", "names", "publish", "record", "latency",
    "packet_models", "recovery", "telemetry", "capture", "anonymise", "spool",
    "messages", "first_packets",
)  # fmt: skip
DEMO_CAPTURE = Path(infra.lab.__file__).parent / "data" / "demo.pcap.gz"
_PEER_OF = {"decode": DPKT, "flows": NFSTREAM}


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    stages: tuple[str, ...] = STAGES
    peers: bool = False
    min_seconds: float = 1.0
    """Least duration of each repeat of a stage on one core."""
    packets: int = 20_000_000
    """Least number of packets through the bus."""
    corpus_packets: int = TARGET_PACKETS
    corpus_octets: int = MAX_OCTETS
    many_flows: int = 1_000_000
    external_bus: bool = False
    rate: int | None = None
    """Packets per second of the stages latency and capture; None: what each takes by default."""
    seconds: float = 20.0
    """For how long the stages latency, packet_models and capture send."""
    apart: bool = False
    """Whether flows worker and model worker of the stage latency are processes of their own."""
    passed_on: tuple[str, ...] = ()
    """Flags with which the settings were made, for the processes of the stage ``bus``."""


def parse_stages(text: str) -> tuple[str, ...]:
    """Return the stages named in ``decode,flows,…``, in the order in which they run."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(STAGES))
    if unknown or not names:
        raise SettingsError(f"--stages {text}: choose from {','.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in names)


LATENCY_RATE = 100_000
LOW_LATENCY = {"models.classifier": "hoeffding_adaptive_tree", "streams.compression": "none"}
"""What the stage latency sets unless the user did: the settings that ``docs/latency.md`` advises for a high rate."""


def run(effective: Effective, captures: Sequence[str], options: BenchOptions, as_json: bool) -> int:
    """Measure and print; the exit code is 1 where the bus lost, doubled or dropped a packet.

    Raises:
        InputError: a capture that cannot be read.
        BusError: no broker for the stage ``bus``, or a process of a measurement failed.
    """
    machine = describe()
    capture, results = bench(effective, captures, options)
    if as_json:
        found = {"machine": machine, "capture": capture, "results": [result.as_dict() for result in results]}
        print(json.dumps(found))
    else:
        from flowgauge.bench.report import show

        show(machine, capture, results)
    if any(result.details.get("accounted") is False for result in results):
        tell("flowgauge: not every packet is accounted for: see the details (--json)")
        return FAILED
    return OK


def bench(
    effective: Effective, captures: Sequence[str], options: BenchOptions
) -> tuple[dict[str, Any], list[Result]]:
    """Measure; return what the input is and a result for each measurement."""
    paths = list(captures) or [str(DEMO_CAPTURE)]
    if not captures and not DEMO_CAPTURE.is_file():
        raise InputError(f"{DEMO_CAPTURE}: the shipped capture is missing; name captures to measure with")
    peers = _present_peers() if options.peers else ()
    with make_corpus(paths, options.corpus_packets, options.corpus_octets) as corpus:
        return _Bench(effective, options, corpus, peers).run()


def _present_peers() -> tuple[str, ...]:
    absent = missing()
    if absent:
        tell(f"flowgauge: {' and '.join(absent)} not installed, so not measured: {HINT}")
    return tuple(name for name in (NFSTREAM, DPKT) if name not in absent)


class _Bench:
    """One run over one corpus."""

    def __init__(
        self, effective: Effective, options: BenchOptions, corpus: Corpus, peers: Sequence[str]
    ) -> None:
        from flowgauge.bench.stages.flows import make_flows

        self._options, self._corpus, self._peers = options, corpus, peers
        self._streams = effective.get("streams", StreamsSettings)
        self._models = effective.get("models", OnlineSettings)
        self._bus = effective.get("bus", BusSettings)
        self._partitions_given = effective.origin("bus.partitions") != DEFAULT
        self._given = frozenset(key for key in LOW_LATENCY if effective.origin(key) != DEFAULT)
        _step(f"{corpus.frames:,} frames, {corpus.octets >> 20} MiB; compiling what is not compiled yet")
        self._found = make_flows(corpus, self._streams, self._bus.partitions)
        if not self._found.packets:
            raise InputError(f"{', '.join(corpus.captures)}: no IP packet to measure with")

    def run(self) -> tuple[dict[str, Any], list[Result]]:
        """Measure the stages in order."""
        results: list[Result] = []
        for stage in self._options.stages:
            _step(f"measuring {stage}")
            results += self._stage(stage)
        capture = {
            **self._corpus.describe(),
            "packets": self._found.packets,
            "flows": self._found.flows,
        }
        return capture, results

    def _stage(self, stage: str) -> list[Result]:
        if stage == "bus":
            return [self._measure_bus()]
        if stage == "publish":
            from flowgauge.bench.stages.publish import publish

            options = self._options
            return [
                publish(
                    self._corpus, self._streams, self._bus, options.external_bus, options.min_seconds, _step
                )
            ]
        if stage == "record":
            from flowgauge.bench.stages.record import record

            return record(self._corpus, self._streams, self._bus.partitions, self._options.min_seconds)
        if stage == "latency":
            from flowgauge.bench.stages.latency import PARTITIONS, Setup, latency

            options, bus = self._options, self._bus
            if not self._partitions_given:
                bus = bus.model_copy(update={"partitions": PARTITIONS})
            chosen = {key: value for key, value in LOW_LATENCY.items() if key not in self._given}
            models = self._models
            if (classifier := "models.classifier") in chosen:
                models = models.model_copy(update={"classifier": chosen[classifier]})
            flags = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
            setup = Setup(
                self._streams, models, bus, options.rate or LATENCY_RATE, options.seconds,
                options.external_bus, (*options.passed_on, *flags), options.apart,
            )  # fmt: skip
            return latency(self._corpus.captures, setup, _step)
        if stage == "packet_models":
            return self._measure_packet_models()
        if stage == "recovery":
            return self._measure_recovery()
        if stage == "capture":
            return [self._measure_capture()]
        if stage == "spool":
            from flowgauge.bench.stages.spool import AWAY_S, RATE, spool

            return [spool(self._bus, self._options.rate or RATE, AWAY_S, _step)]
        if stage == "telemetry":
            from flowgauge.bench.stages.telemetry import telemetry

            return [telemetry(self._corpus, self._streams, self._bus.partitions)]
        if stage == "messages":
            from flowgauge.bench.stages.messages import messages

            return messages(self._streams)
        if stage == "features":
            from flowgauge.bench.stages.features import features

            return features(self._corpus, self._bus.partitions, self._options.min_seconds)
        if stage == "names":
            from flowgauge.bench.stages.names import names

            return names(self._corpus, self._streams, self._bus.partitions, self._options.min_seconds)
        if stage == "first_packets":
            from flowgauge.bench.stages.first_packets import first_packets

            return first_packets(self._corpus, self._bus.partitions, self._options.min_seconds)
        if stage == "state":
            from flowgauge.bench.stages.state import state

            return state(self._streams, self._bus.partitions, self._options.many_flows)
        result = self._on_one_core(stage)
        peer = _PEER_OF.get(stage)
        if peer in self._peers:
            _step(f"measuring {peer}")
            add_peer(result, str(peer), self._corpus)
        return [result]

    def _on_one_core(self, stage: str) -> Result:
        corpus, streams, partitions = self._corpus, self._streams, self._bus.partitions
        seconds = self._options.min_seconds
        if stage == "decode":
            from flowgauge.bench.stages.decode import decode

            return decode(corpus, seconds)
        if stage == "anonymise":
            from flowgauge.bench.stages.anonymise import anonymise

            return anonymise(corpus, seconds)
        if stage == "flows":
            from flowgauge.bench.stages.flows import flows

            return flows(corpus, streams, partitions, seconds)
        if stage == "encode":
            from flowgauge.bench.stages.encode import encode

            return encode(corpus, partitions, seconds)
        from flowgauge.bench.stages.agent import agent

        return agent(corpus, streams, partitions, seconds)

    def _measure_packet_models(self) -> list[Result]:
        from flowgauge.bench.stages import packet_models as packets

        options = self._options
        setup = packets.Setup(
            self._streams,
            self._bus,
            options.min_seconds,
            options.seconds,
            options.external_bus,
            options.passed_on,
        )
        return packets.packet_models(self._corpus, setup, _step)

    def _measure_capture(self) -> Result:
        from flowgauge.bench.stages.capture import WANTED_RATE, Setup, capture

        options = self._options
        rate = options.rate or WANTED_RATE
        return capture(Setup(self._streams, self._bus, rate, options.seconds, options.passed_on), _step)

    def _measure_recovery(self) -> list[Result]:
        from flowgauge.bench.stages.recovery import PARTITIONS, Setup, recovery

        options, bus = self._options, self._bus
        if not self._partitions_given:
            bus = bus.model_copy(update={"partitions": PARTITIONS})
        setup = Setup(
            self._streams, bus, options.packets, external=options.external_bus, passed_on=options.passed_on
        )
        return recovery(setup, _step)

    def _measure_bus(self) -> Result:
        from flowgauge.bench.stages.bus import bus

        options = self._options
        return bus(
            self._corpus, self._found.packets, self._streams, self._bus, options.packets,
            options.external_bus, options.passed_on, _step,
        )  # fmt: skip


def _step(what: str) -> None:
    print(f"flowgauge: {what}", file=sys.stderr, flush=True)
