"""Starts a flows worker: connects, checks the topics, runs the agent in Faust."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from producers.security.access import why_missing
from schemas.errors import BusError
from schemas.topics import DEAD_LETTERS, FEATURES_PATH, FLOWS_STATE, PACKETS, TELEMETRY_COST
from streams.agent import FlowsAgent
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.faust_app import Runner

log = logging.getLogger("flowgauge")

_NAMED = 10
"""Rules without a match that are named when the worker stops."""


def required_topics(settings: StreamsSettings) -> tuple[tuple[str, bool], ...]:
    """Return (plain name, whether it is split like packets) of every topic that the worker touches."""
    features = tuple((f"features.{r.name}", True) for r in settings.computed)
    paths = ((FEATURES_PATH, True),) if settings.path_join != "off" else ()
    return (
        *((name, True) for name in (PACKETS, FLOWS_STATE)),
        *features,
        *paths,
        (DEAD_LETTERS, False),
        (TELEMETRY_COST, False),
    )


def run_worker(
    settings: StreamsSettings, bus: BusSettings, on_wait: Callable[[str], None] | None = None
) -> tuple[int, Counter[str]]:
    """Run a flows worker until it is stopped; return (exit code, counters).

    Raises:
        BusError: no broker, a topic is missing or split otherwise, or the bus fails for good.
        SettingsError: an unknown feature.
    """
    resolve(settings.computed, settings.feature_files)
    sink = BusProducer(with_compression(bus, settings), only_failures=True)
    sink.connect(on_wait=on_wait)
    check_topics(sink, settings, bus)
    agent = FlowsAgent(settings, bus, sink, states=BusProducer(bus))
    code = Runner(agent, [PACKETS], bus, settings).run()
    if unmatched := agent.rules_without_match():
        more = f" and {len(unmatched) - _NAMED:,} more" if len(unmatched) > _NAMED else ""
        log.warning("rules of services that matched nothing: %s%s", ", ".join(unmatched[:_NAMED]), more)
    return code, agent.counts()


def with_compression(bus: BusSettings, settings: StreamsSettings) -> BusSettings:
    """Return the bus as what makes feature rows writes to it."""
    if settings.compression == "as the bus":
        return bus
    return bus.model_copy(update={"compression": settings.compression})


def check_topics(sink: BusProducer, settings: StreamsSettings, bus: BusSettings) -> None:
    """Raise BusError for a topic that a flows worker needs and that is missing or split otherwise."""
    missing = []
    for plain, by_flow in required_topics(settings):
        name = topic_name(bus, plain)
        found = sink.partitions(name)
        if not found:
            missing.append(name)
        elif by_flow and found != bus.partitions:
            raise BusError(
                f"bus {bus.bootstrap}: topic {name} has {found} partitions, bus.partitions says {bus.partitions}"
            )
    if missing:
        raise BusError(f"bus {bus.bootstrap}: {why_missing(bus, missing)}")
