"""A live probe with its log and its summary: ``flowgauge probe``."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from flowgauge.interrupt import Stop, stopping
from flowgauge.messages import short
from flowgauge.settings import Effective
from flowgauge.wanted import flow_rules, probe_settings, wanted_columns
from flowgauge.workers import log_to_stderr, waiting
from producers.bus import BusProducer
from producers.config import BusSettings, PayloadSettings, topic_name
from producers.metrics import serving
from producers.probe.config import ProbeSettings
from producers.probe.log import LOGGER, set_up
from producers.probe.privileges import drop_privileges
from producers.probe.ring.sockets import RingSize
from producers.probe.ring.source import RingOptions, RingSource
from producers.probe.run import Probe, ProbeOptions
from producers.probe.source import LiveSource
from producers.probe.summary import LiveSummary
from schemas.errors import SettingsError
from schemas.topics import PACKETS, PAYLOADS, TELEMETRY_COST
from streams.config import StreamsSettings

log = logging.getLogger(LOGGER)
_HEADERS_OCTETS = 256
_ALL_OCTETS = 262_144


def run(effective: Effective, as_json: bool) -> int:
    """Capture until stopped and print what was done.

    Raises:
        SettingsError: no interface, or a setting that cannot be used.
        CaptureError: an interface that cannot be captured from.
        BusError: no broker, no topic, or messages that were not delivered.
    """
    settings = probe_settings(effective)
    log_to_stderr()
    set_up(settings.log_level, settings.log_interval_s)
    with stopping() as stop:
        summary = _capture(effective, settings, stop)
    _show(summary, effective.get("bus", BusSettings).bootstrap, as_json)
    return 0


def probe_options(effective: Effective, settings: ProbeSettings) -> ProbeOptions:
    """Return how the probe runs, from all settings."""
    return ProbeOptions(
        settings.name,
        settings,
        wanted_columns(effective),
        effective.get("payloads", PayloadSettings),
        flow_rules(effective.get("streams", StreamsSettings)),
    )


def open_sources(options: ProbeOptions) -> list[LiveSource]:
    """Open everything that the settings name to capture from; this is what takes rights.

    Raises:
        SettingsError: nothing is named.
        CaptureError: an interface cannot be captured from.
    """
    settings = options.settings
    if not settings.interfaces:
        raise SettingsError(
            "probe: nothing to capture from; name an interface (--interface, probe.interfaces)"
        )
    sources: list[LiveSource] = []
    for interface in dict.fromkeys(settings.interfaces):
        sources.append(RingSource(interface, ring_options(options)))
    return sources


def ring_options(options: ProbeOptions) -> RingOptions:
    """Return how interfaces are captured from."""
    settings = options.settings
    looks_inside = settings.names or options.payloads.mode != "off" or options.extra.head_octets
    return RingOptions(
        RingSize(settings.ring_mbytes << 20, settings.block_kbytes << 10, settings.block_timeout_ms),
        settings.filter,
        settings.snap_octets or (_ALL_OCTETS if looks_inside else _HEADERS_OCTETS),
        settings.promiscuous,
        settings.outgoing,
        settings.timestamps == "hardware",
    )


def _capture(effective: Effective, settings: ProbeSettings, stop: Stop) -> LiveSummary:
    bus = effective.get("bus", BusSettings)
    options = probe_options(effective, settings)
    sources = open_sources(options)
    probe = Probe(sources, bus, options, stop=stop.event)
    log.info("%s", drop_privileges(settings.user))
    sink = BusProducer(bus)
    if sink.connect(stop=stop.event, on_wait=waiting):
        require_topics(sink, bus, options)
    publisher = probe.attach(sink)
    log.info("probe %s captures from %s", settings.name, ", ".join(source.name for source in sources))
    with serving(settings, publisher.meters, publisher.health):
        return probe.run()


def require_topics(sink: BusProducer, bus: BusSettings, options: ProbeOptions) -> None:
    """Raise BusError unless the bus has the topics that the probe writes."""
    sink.require(topic_name(bus, PACKETS), bus.partitions)
    if options.settings.telemetry_interval_s:
        sink.require(topic_name(bus, TELEMETRY_COST))
    if options.payloads.mode != "off":
        sink.require(topic_name(bus, PAYLOADS), bus.partitions)


def _show(summary: LiveSummary, bootstrap: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary.as_dict()), flush=True)
        return
    for name, value in _lines(summary, bootstrap):
        print(f"{name:<14}{value}", flush=True)


def _lines(summary: LiveSummary, bootstrap: str) -> Sequence[tuple[str, str]]:
    found = summary.as_dict()
    packets, messages = found["packets"], found["messages"]
    skipped = ", ".join(f"{n} {reason}" for reason, n in sorted(packets["skipped"].items()) if n)
    events = ", ".join(f"{n} {event}" for event, n in sorted(found["events"].items()) if n)
    return [
        (
            "probe",
            f"{summary.probe}: {', '.join(summary.sources)} to {bootstrap} for {summary.duration_s:.1f} s",
        ),
        ("seen", f"{packets['seen']} packets" + (f" (skipped: {skipped})" if skipped else "")),
        ("sent", f"{packets['sent']} packets in {found['batches']} batches"),
        ("acknowledged", f"{packets['acked']} packets, {messages['acked']} of {messages['sent']} messages"),
        ("rate", f"{short(found['packets_per_s'])} packets/s"),
        *([("events", events)] if events else []),
    ]
