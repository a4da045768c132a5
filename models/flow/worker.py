"""Starts a cascade worker: waits for a cascade to be live, then runs the agent in Faust."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from models.flow.agent import STAGE, CascadeAgent, input_topics
from models.flow.bundle import CASCADES, open_cascade
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.flow.errors import CascadeError
from models.flow.resume import Resumer
from models.packet.announce import Announcement
from models.packet.live import LiveModels, LiveVersions, first_version
from models.packet.store import open_library
from models.with_flows import CpuShare, FlowsWithModel, made_topics, topics_read
from producers.bus import BusProducer, Sink
from producers.config import BusSettings, topic_name
from producers.health import Health
from producers.metrics import serving
from producers.telemetry import StageMeter
from schemas.topics import DEAD_LETTERS, FLOWS_STATE, MODELS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.credentials import check_group
from streams.faust_app import Runner
from streams.worker import check_topics, with_compression


def load(settings: CascadeSettings, told: Announcement) -> Cascade:
    """Load the version that was announced out of the library and try each tier out.

    The announcement's own ``uri`` is for people: what comes over the bus does not choose files on this machine.

    Raises:
        FlowgaugeError: it cannot be used.
    """
    if told.problem:
        raise CascadeError(f"the announcement on the topic models cannot be read: {told.problem}")
    folder = open_library(settings.library, CASCADES).fetch(told.name, told.version, told.sha256)
    cascade = open_cascade(folder, told.sha256, skip_broken=True)
    if (cascade.card.name, cascade.card.version) != (told.name, told.version):
        raise CascadeError(f"{folder}: its card is of another cascade, {cascade.title}")
    if told.classes and told.classes != cascade.classes:
        raise CascadeError(f"{folder}: its card has other classes than it was announced with")
    return cascade


def describe(cascade: Cascade) -> str:
    """Return what a cascade is made of, for the log."""
    tiers = ", ".join(f"{t.kind} on {t.representation} at packet {t.depth}" for t in cascade.card.tiers)
    return f"{len(cascade.classes)} classes; {tiers}"


def run_worker(
    settings: CascadeSettings,
    bus: BusSettings,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None = None,
    streams: StreamsSettings | None = None,
) -> tuple[int, Counter[str]]:
    """Run a cascade worker until it is stopped; return (exit code, counters).

    ``stop`` ends the wait for a first cascade; once there is one, signals do. While there is none the rows wait on the
    bus, for the worker is not in its group yet. With ``streams`` it is a flows worker too, and packets wait there.

    Raises:
        BusError: no broker, a topic is missing or split otherwise, or the bus fails for good.
        SettingsError: what runs the tiers is not installed, an unknown feature, or one that ``streams`` does not make.
    """
    # Each cascade has readers of its own: in one group, two cascades would each get half of the rows.
    settings = settings.model_copy(update={"group": f"{settings.group}.{settings.name}"})
    sink = BusProducer(with_compression(bus, streams) if streams else bus, only_failures=True)
    if not sink.connect(stop=stop, on_wait=on_wait):
        return 0, Counter()
    for name in (MODELS, DEAD_LETTERS, TELEMETRY_COST):
        sink.require(topic_name(bus, name))
    if streams is not None:
        resolve(streams.computed, streams.feature_files)
        check_topics(sink, streams, bus)
    check_group(bus, (streams or settings).group)  # before a wait for a model that may be long
    where = open_library(settings.library, CASCADES).root
    missing = (
        f"no usable version of the cascade {settings.name} is live yet (library {where}): "
        "rows wait on the bus; flowgauge cascade publish makes one live"
    )
    live = LiveVersions(settings.name, bus, lambda told: load(settings, told), describe)
    with live:
        health = Health(settings.stall_s)
        # Waiting for a model is no fault: whoever checks the worker's health is told so from the start.
        with serving(settings, [], health):
            cascade = first_version(live, stop, health, missing)
        if cascade is None:
            return 0, Counter()
        for name in (*input_topics(cascade), PREDICTIONS_FLOW, FLOWS_STATE):
            sink.require(topic_name(bus, name), bus.partitions)
        states = BusProducer(bus)
        if streams is None:
            topics = input_topics(cascade)
            resumer = Resumer(settings.group, bus, states, topics)
            agent = CascadeAgent(settings, bus, sink, cascade, live, resumer=resumer, topics=topics)
            return Runner(agent, agent.topics, bus, settings).run(), agent.counts()
        both = with_flows(streams, settings, bus, sink, cascade, live, states)
        return Runner(both, both.topics, bus, streams, [both.model.meter]).run(), both.counts()


def with_flows(
    streams: StreamsSettings,
    settings: CascadeSettings,
    bus: BusSettings,
    sink: Sink,
    cascade: Cascade,
    live: LiveModels[Cascade],
    states: Sink | None = None,
) -> FlowsWithModel[CascadeAgent]:
    """Return the handler of a worker that keeps flow state too; raises as ``run_worker`` does."""
    topics = topics_read(streams, input_topics(cascade), f"cascade {cascade.title}")
    share = CpuShare()
    agent = CascadeAgent(
        settings,
        bus,
        sink,
        cascade,
        live,
        meter=StageMeter(STAGE, "rows", settings.name, share.part_ns),
        resumer=Resumer(streams.group, bus, states or sink, topics, f"{streams.group}+{settings.group}"),
        topics=(*made_topics(streams), *topics[1:]),
    )
    return FlowsWithModel(streams, bus, sink, agent, topics, share, states)
