"""Starts a flows worker: connects, checks the topics, runs the agent in Faust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.topics import DEAD_LETTERS, FLOWS_STATE, PACKETS, TELEMETRY_COST
from streams.agent import FlowsAgent
from streams.config import StreamsSettings
from streams.faust_app import Runner


def required_topics(settings: StreamsSettings) -> tuple[tuple[str, bool], ...]:
    """Return (plain name, whether it is split like packets) of every topic that the worker touches."""
    features = tuple((f"features.{r.name}", True) for r in settings.representations)
    return (
        *((name, True) for name in (PACKETS, FLOWS_STATE)),
        *features,
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
    sink = BusProducer(bus)
    sink.connect(on_wait=on_wait)
    for name, by_flow in required_topics(settings):
        sink.require(topic_name(bus, name), bus.partitions if by_flow else None)
    agent = FlowsAgent(settings, bus, sink)
    code = Runner(agent, [PACKETS], bus, settings).run()
    return code, agent.counts()
