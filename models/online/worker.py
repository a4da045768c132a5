"""Starts a worker of the online model: connects, checks the topics, runs the agent in Faust."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from models.online.agent import STAGE, ModelAgent, input_topics
from models.online.config import OnlineSettings
from models.with_flows import CpuShare, FlowsWithModel, topics_read
from producers.bus import BusProducer, Sink
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas.topics import DEAD_LETTERS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.faust_app import Runner
from streams.worker import check_topics, with_compression


def required_topics(settings: OnlineSettings) -> tuple[tuple[str, bool], ...]:
    """Return (plain name, whether it is split like packets) of every topic that the worker touches."""
    split = (*input_topics(settings), PREDICTIONS_FLOW)
    return (*((name, True) for name in split), (DEAD_LETTERS, False), (TELEMETRY_COST, False))


def run_worker(
    settings: OnlineSettings,
    bus: BusSettings,
    on_wait: Callable[[str], None] | None = None,
    streams: StreamsSettings | None = None,
) -> tuple[int, Counter[str], dict[str, Any]]:
    """Run a model worker until it is stopped; return (exit code, counters, summary of what it learned).

    With ``streams`` it is a flows worker too.

    Raises:
        BusError: no broker, a topic is missing or split otherwise, or the bus fails for good.
        SettingsError: parameters that the classifier does not have, an unknown feature, or one that ``streams`` does
            not make.
    """
    sink = BusProducer(with_compression(bus, streams) if streams else bus, only_failures=True)
    # Before the bus is waited for: a mistake in the settings is told at once.
    if streams is None:
        agent = ModelAgent(settings, bus, sink)
        handler: ModelAgent | FlowsWithModel[ModelAgent] = agent
        topics = input_topics(settings)
    else:
        resolve(streams.computed, streams.feature_files)
        handler = both = with_flows(streams, settings, bus, sink, BusProducer(bus))
        agent, topics = both.model, both.topics
    try:
        sink.connect(on_wait=on_wait)
        if streams is not None:
            check_topics(sink, streams, bus)
        for name, by_flow in required_topics(settings):
            sink.require(topic_name(bus, name), bus.partitions if by_flow else None)
        more = [agent.meter] if streams else []
        code = Runner(handler, topics, bus, streams or settings, more).run()
        return code, handler.counts(), agent.learner.summary()
    finally:
        agent.keeper.close()


def with_flows(
    streams: StreamsSettings,
    settings: OnlineSettings,
    bus: BusSettings,
    sink: Sink,
    states: Sink | None = None,
) -> FlowsWithModel[ModelAgent]:
    """Return the handler of a worker that keeps flow state too; raises SettingsError as ``run_worker`` does."""
    topics = topics_read(streams, input_topics(settings), f"model {settings.name}")
    share = CpuShare()
    meter = StageMeter(STAGE, "rows", settings.name, share.part_ns)
    agent = ModelAgent(settings, bus, sink, meter, rows_group=streams.group)
    return FlowsWithModel(streams, bus, sink, agent, topics, share, states)
