"""``flowgauge probe --check``: whether everything that the probe needs is there, one line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from flowgauge.bus import topic_states
from flowgauge.framing import check_registry
from flowgauge.outcome import FAILED, OK
from flowgauge.probe_sources import other_sources
from flowgauge.probing import probe_options, require_topics, ring_options
from flowgauge.settings import Effective
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from producers.probe.clock import clock_state
from producers.probe.config import ProbeSettings
from producers.probe.privileges import take_rights
from producers.probe.ring.interface import State, look_at, offloads
from producers.probe.ring.sockets import PacketSocket
from producers.probe.ring.source import RingSource
from producers.probe.run import ProbeOptions
from schemas.codec import fingerprint_of, schema
from schemas.errors import FlowgaugeError, SettingsError
from schemas.packets import PacketBatch, decode_packet_batch, empty_columns
from schemas.topics import PACKETS, PAYLOADS, TELEMETRY_COST


@dataclass(frozen=True)
class Finding:
    """One line of the check."""

    what: str
    ok: bool
    told: str


def check(effective: Effective, as_json: bool) -> int:
    """Check and print; return the exit code: 1 where something is wrong."""
    found = []
    for finding in findings(effective):
        found.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<22} {finding.told}", flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found]))
    return OK if all(finding.ok for finding in found) else FAILED


def findings(effective: Effective) -> Iterator[Finding]:
    """Yield what is found, in the order in which a start would trip over it."""
    options, bus = probe_options(effective), effective.get("bus", BusSettings)
    settings = options.settings
    if not (settings.interfaces or settings.sources or settings.watch):
        yield Finding("interface", False, "none is named (--interface, probe.interfaces)")
    for name in options.settings.interfaces:
        yield _try(f"interface {name}", lambda name=name: _interface(name))  # type: ignore[misc]
    if settings.sources or settings.watch:
        yield _try("other sources", lambda: _others(settings))
    if settings.interfaces:
        yield _try("rights", _rights)
    for name in options.settings.interfaces:
        yield _try(f"ring {name}", lambda name=name: _ring(name, options))  # type: ignore[misc]
    yield _try("clock", _clock)
    answers = _try("bus", lambda: _bus(bus))
    yield answers
    if answers.ok:
        yield _try("topics", lambda: _topics(effective, bus, options))
    else:
        yield Finding("topics", False, "not asked for: no broker answers")
    yield _try("schema", lambda: _schema(effective, bus, options))


def _try(what: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, find())
    except FlowgaugeError as error:
        return Finding(what, False, str(error))


def _interface(name: str) -> str:
    now = look_at(name)
    if now.state == State.GONE:
        raise SettingsError("there is none of this name")
    if now.state == State.DOWN:
        raise SettingsError("is down: nothing is seen until it is up")
    told = f"{now.state.value}, MTU {now.mtu}"
    merging = [feature for feature in offloads(name) if feature in ("gro", "lro")]
    if merging and not now.loopback:
        told += (
            f"; {' and '.join(merging)} merges packets before they are seen: ethtool -K {name} "
            + " ".join(f"{feature} off" for feature in merging)
        )
    return told


def _rights() -> str:
    take_rights()
    PacketSocket().close()
    return "packets may be captured"


def _ring(name: str, options: ProbeOptions) -> str:
    source = RingSource(name, ring_options(options, 0))
    octets, wanted = source.ring_octets, options.settings.ring_mbytes << 20
    source.close()
    if octets < wanted:
        raise SettingsError(
            f"{octets >> 20} MiB are to be had, not the {wanted >> 20} MiB of probe.ring_mbytes"
        )
    filtered = f", filter {options.settings.filter!r}" if options.settings.filter else ""
    processes = options.settings.processes
    shared = f" for each of {processes} processes" if processes > 1 else ""
    return f"{octets >> 20} MiB{shared}{filtered}"


def _clock() -> str:
    state = clock_state()
    if state is None:
        return "not told by the kernel"
    if not state.synchronised:
        raise SettingsError(
            "nobody keeps it right (chrony, timesyncd, ptp4l): times of gateways do not compare"
        )
    return f"kept right, within {state.error_ns / 1e6:.3g} ms by its own estimate"


def _bus(bus: BusSettings) -> str:
    BusProducer(bus).connect()
    return f"a broker answers at {bus.bootstrap}"


def _topics(effective: Effective, bus: BusSettings, options: ProbeOptions) -> str:
    producer = BusProducer(bus)
    require_topics(producer, bus, options)
    wanted = [PACKETS] + [TELEMETRY_COST] * bool(options.settings.telemetry_interval_s)
    wanted += [PAYLOADS] * (options.payloads.mode != "off")
    names = [topic_name(bus, topic) for topic in wanted]
    problems = [state.problem for state in topic_states(effective) if state.name in names and state.problem]
    if problems:
        raise SettingsError("; ".join(problems))
    return ", ".join(names)


def _schema(effective: Effective, bus: BusSettings, options: ProbeOptions) -> str:
    batch = PacketBatch(options.name, 0, 0, bus.partitions, 0, 0, empty_columns())
    decode_packet_batch(batch.encode())
    if not bus.registry_url:
        return f"PacketBatch {fingerprint_of(schema('PacketBatch')).hex()}; no registry is set"
    check_registry(effective)
    return f"PacketBatch; the registry at {bus.registry_url.rpartition('@')[2]} answers"


def _others(settings: ProbeSettings) -> str:
    sources = other_sources(settings)
    for source in sources:
        source.close()
    return ", ".join(source.name for source in sources)
