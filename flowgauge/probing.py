"""A live probe with its log and its summary: ``flowgauge probe``."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flowgauge.interrupt import Stop, stopping
from flowgauge.messages import short
from flowgauge.probe_bus import of_process, probe_bus
from flowgauge.probe_processes import ProcessFailed, run_processes
from flowgauge.probe_sources import other_sources
from flowgauge.settings import Effective
from flowgauge.wanted import probe_settings, wanted_columns, wanted_packets
from flowgauge.workers import log_to_stderr
from producers.bus import BusProducer
from producers.config import BusSettings, PayloadSettings, topic_name
from producers.metrics import serving
from producers.privacy.config import PrivacySettings
from producers.privacy.privacy import check_payloads, open_privacy
from producers.probe.log import LOGGER, set_up
from producers.probe.privileges import drop_privileges, take_rights
from producers.probe.ring.sockets import RingSize
from producers.probe.ring.source import ALL_OCTETS, RingOptions, RingSource
from producers.probe.run import Probe, ProbeOptions, mark_end
from producers.probe.source import LiveSource
from producers.spool.config import SpoolSettings
from schemas.errors import FlowgaugeError, SettingsError
from schemas.topics import PACKETS, PACKETS_FIELDS, PAYLOADS, TELEMETRY_COST
from streams.config import StreamsSettings
from streams.flow_rules import flow_rules

log = logging.getLogger(LOGGER)
_HEADERS_OCTETS = 256

Load = Callable[[], Effective]
"""Reads the settings, as they are now."""


def run(load: Load, as_json: bool) -> int:
    """Capture until stopped and print what was done.

    Raises:
        SettingsError: no interface, or a setting that cannot be used.
        CaptureError: an interface that cannot be captured from.
        BusError: no broker, no topic, or messages that were not delivered.
    """
    effective = load()
    options = probe_options(effective)
    log_to_stderr()
    set_up(options.settings.log_level, options.settings.log_interval_s)
    with stopping() as stop, hanging_up() as hangup:
        try:
            summary = _Run(load, effective, options, stop, hangup).run()
        except ProcessFailed as failure:
            return failure.code
    _show(summary, effective.get("bus", BusSettings).bootstrap, as_json)
    return 0


def probe_options(effective: Effective) -> ProbeOptions:
    """Return how the probe runs, from all settings."""
    settings, payloads = probe_settings(effective), effective.get("payloads", PayloadSettings)
    privacy = effective.get("privacy", PrivacySettings)
    check_payloads(privacy, payloads)
    return ProbeOptions(
        settings.name,
        settings,
        wanted_columns(effective),
        payloads,
        flow_rules(effective.get("streams", StreamsSettings)),
        wanted_packets(effective),
        open_privacy(privacy),
    )


def open_sources(options: ProbeOptions) -> list[LiveSource]:
    """Open everything that the settings name to capture from; this is what takes rights.

    Raises:
        SettingsError: nothing is named.
        CaptureError: an interface cannot be captured from.
    """
    settings = options.settings
    if not (settings.interfaces or settings.sources or settings.watch):
        raise SettingsError(
            "probe: nothing to capture from; name an interface (--interface, probe.interfaces), "
            "--source or --watch"
        )
    take_rights()
    sources: list[LiveSource] = []
    try:
        for number, interface in enumerate(dict.fromkeys(settings.interfaces)):
            sources.append(RingSource(interface, ring_options(options, number)))
        sources += other_sources(settings)
    except BaseException:
        for source in sources:
            source.close()
        raise
    return sources


def ring_options(options: ProbeOptions, interface: int) -> RingOptions:
    """Return how the interface of this number is captured from."""
    settings = options.settings
    looks_inside = settings.names or options.payloads.mode != "off" or options.extra.head_octets
    return RingOptions(
        RingSize(settings.ring_mbytes << 20, settings.block_kbytes << 10, settings.block_timeout_ms),
        settings.filter,
        settings.snap_octets or (ALL_OCTETS if looks_inside else _HEADERS_OCTETS),
        settings.promiscuous,
        settings.outgoing,
        settings.timestamps == "hardware",
        # A number that no other probe of this machine is likely to take.
        None if settings.processes == 1 else (os.getpid() + interface) & 0xFFFF,
        settings.fanout,
        settings.direction_macs if settings.direction == "mac" else (),
        settings.direction_prefixes if settings.direction == "prefix" else (),
    )


class _Run:
    """One run of the command, in one process or several."""

    def __init__(
        self, load: Load, effective: Effective, options: ProbeOptions, stop: Stop, hangup: threading.Event
    ) -> None:
        self._load, self._effective, self._options = load, effective, options
        self._bus = effective.get("bus", BusSettings)
        self._stop, self._hangup = stop, hangup

    def run(self) -> dict[str, Any]:
        """Open everything, give up all rights, capture; return the summary."""
        settings = self._options.settings
        shares = [open_sources(self._options) for _ in range(settings.processes)]
        # What is compiled is compiled now: the user that we become may have no place to keep it.
        probe = Probe(shares[0], self._bus, self._options, stop=self._stop.event)
        log.info("%s", drop_privileges(settings.user))
        log.info(
            "probe %s captures from %s%s",
            settings.name,
            ", ".join(source.name for source in shares[0]),
            "" if len(shares) == 1 else f" with {len(shares)} processes",
        )
        return self._capture(probe, self._stop) if len(shares) == 1 else self._share(shares)

    def _share(self, shares: Sequence[Sequence[LiveSource]]) -> dict[str, Any]:
        def work(number: int, taking_over: bool, stop: Stop) -> dict[str, Any]:
            options = replace(self._options, number=number, marks_end=False)
            for source in shares[number]:
                if taking_over and isinstance(source, RingSource):
                    source.take_over()
            return self._capture(Probe(shares[number], self._bus, options, stop=stop.event), stop, number)

        summaries, restarts = run_processes(len(shares), work, self._stop, self._hangup)
        if not any(summary["packets"]["kept"] for summary in summaries):
            # Where packets are left on disk, this is not the end.
            sink = BusProducer(self._bus)
            mark_end(self._options.name, self._bus, self._options, sink)
            sink.flush(self._options.settings.drain_timeout_s)
        return _together(summaries, restarts)

    def _capture(self, probe: Probe, stop: Stop, number: int = 0) -> dict[str, Any]:
        settings = self._options.settings
        if number and settings.metrics_port:
            settings = settings.model_copy(update={"metrics_port": settings.metrics_port + number})
        spool = of_process(self._effective.get("spool", SpoolSettings), number, settings.processes)
        with probe_bus(
            spool, self._bus, lambda found: require_topics(found, self._bus, self._options), stop
        ) as sink:
            publisher = probe.attach(sink)
            with serving(settings, publisher.meters, publisher.health):
                summary = probe.run(lambda: self._reload(probe)).as_dict()
        return {**summary, "bus_waits": sink.full_waits if isinstance(sink, BusProducer) else 0}

    def _reload(self, probe: Probe) -> None:
        """Read the settings again, where a SIGHUP asked for it; a mistake in them changes nothing."""
        if not self._hangup.is_set():
            return
        self._hangup.clear()
        try:
            effective = self._load()
            left = [f"probe.{name}" for name in probe.reload(probe_settings(effective))]
        except FlowgaugeError as error:
            log.error("the settings were not reloaded: %s", error)
            return
        for section in ("bus", "packets", "payloads", "streams", "privacy", "spool"):
            if effective.sections[section] != self._effective.sections[section]:
                left.append(f"[{section}]")
        log.info("the settings were reloaded%s", f"; to be restarted for: {', '.join(left)}" if left else "")


def require_topics(sink: BusProducer, bus: BusSettings, options: ProbeOptions) -> None:
    """Raise BusError unless the bus has the topics that the probe writes."""
    sink.require(topic_name(bus, PACKETS), bus.partitions)
    if options.settings.telemetry_interval_s:
        sink.require(topic_name(bus, TELEMETRY_COST))
    if options.settings.tshark_fields:
        sink.require(topic_name(bus, PACKETS_FIELDS), bus.partitions)
    if options.payloads.mode != "off":
        sink.require(topic_name(bus, PAYLOADS), bus.partitions)


@contextmanager
def hanging_up() -> Iterator[threading.Event]:
    """Turn SIGHUP inside the block into an event."""
    event = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


def _together(summaries: Sequence[dict[str, Any]], restarts: int) -> dict[str, Any]:
    """Return the summaries of processes as one: counts add up, the longest duration counts."""
    whole = _sum(summaries)
    whole["turn_max_ms"] = max(one["turn_max_ms"] for one in summaries)
    whole["duration_s"] = max(one["duration_s"] for one in summaries)
    whole["packets_per_s"] = whole["packets"]["sent"] / whole["duration_s"] if whole["duration_s"] else 0.0
    whole["processes"], whole["restarts"] = len(summaries), restarts
    return whole


def _sum(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for part in parts for name in part)
    out: dict[str, Any] = {}
    for name in names:
        values = [part[name] for part in parts if name in part]
        if isinstance(values[0], dict):
            out[name] = _sum(values)
        else:
            out[name] = sum(values) if isinstance(values[0], (int, float)) else values[0]
    return out


def _show(found: dict[str, Any], bootstrap: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found), flush=True)
        return
    for name, value in _lines(found, bootstrap):
        print(f"{name:<14}{value}", flush=True)


def _lines(found: dict[str, Any], bootstrap: str) -> list[tuple[str, str]]:
    packets, messages = found["packets"], found["messages"]
    skipped, events = _told(packets["skipped"]), _told(found["events"])
    where = f"{', '.join(found['sources'])} to {bootstrap} for {found['duration_s']:.1f} s"
    return [
        ("probe", f"{found['probe']}: {where}"),
        ("seen", f"{packets['seen']} packets" + (f" (skipped: {skipped})" if skipped else "")),
        ("sent", f"{packets['sent']} packets in {found['batches']} batches"),
        *(
            [("left out", f"{packets['left_out']} packets, behind the first of their flows")]
            if packets["left_out"]
            else []
        ),
        ("acknowledged", f"{packets['acked']} packets, {messages['acked']} of {messages['sent']} messages"),
        *(
            [("left on disk", f"{packets['kept']} packets, sent at the next start")]
            if packets["kept"]
            else []
        ),
        ("rate", f"{short(found['packets_per_s'])} packets/s"),
        *([("events", events)] if events else []),
    ]


def _told(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in sorted(Counter(counts).items()) if count
    )
