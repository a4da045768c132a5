"""Starts a worker of the online model: connects, checks the topics, runs the agent in Faust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from models.online.agent import ModelAgent, input_topics
from models.online.config import OnlineSettings
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from schemas.topics import DEAD_LETTERS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.faust_app import Runner


def required_topics(settings: OnlineSettings) -> tuple[tuple[str, bool], ...]:
    """Return (plain name, whether it is split like packets) of every topic that the worker touches."""
    split = (*input_topics(settings), PREDICTIONS_FLOW)
    return (*((name, True) for name in split), (DEAD_LETTERS, False), (TELEMETRY_COST, False))


def run_worker(
    settings: OnlineSettings, bus: BusSettings, on_wait: Callable[[str], None] | None = None
) -> tuple[int, Counter[str], dict[str, Any]]:
    """Run a model worker until it is stopped; return (exit code, counters, summary of what it learned).

    Raises:
        BusError: no broker, a topic is missing or split otherwise, or the bus fails for good.
        SettingsError: parameters that the classifier does not have.
    """
    sink = BusProducer(bus, only_failures=True)
    # Before the bus is waited for: a mistake in the settings is told at once.
    agent = ModelAgent(settings, bus, sink)
    try:
        return _run(agent, settings, bus, sink, on_wait)
    finally:
        agent.keeper.close()


def _run(
    agent: ModelAgent,
    settings: OnlineSettings,
    bus: BusSettings,
    sink: BusProducer,
    on_wait: Callable[[str], None] | None,
) -> tuple[int, Counter[str], dict[str, Any]]:
    sink.connect(on_wait=on_wait)
    for name, by_flow in required_topics(settings):
        sink.require(topic_name(bus, name), bus.partitions if by_flow else None)
    code = Runner(agent, input_topics(settings), bus, settings).run()
    return code, agent.counts(), agent.learner.summary()
