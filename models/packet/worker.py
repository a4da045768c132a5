"""Starts a worker of a packet model: waits for a model to be live, then runs the agent in Faust."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from models.packet.agent import INPUT_TOPICS, PacketModelAgent
from models.packet.config import PacketModelSettings
from models.packet.live import LiveModel, first_version
from models.packet.store import open_library
from producers.bus import BusProducer
from producers.config import BusSettings, topic_name
from producers.health import Health
from producers.metrics import serving
from schemas.topics import (
    DEAD_LETTERS,
    MODELS,
    PREDICTIONS_FLOW,
    PREDICTIONS_PACKET,
    TELEMETRY_COST,
)
from streams.credentials import check_group
from streams.faust_app import Runner

REQUIRED = (
    *((name, True) for name in (*INPUT_TOPICS, PREDICTIONS_PACKET, PREDICTIONS_FLOW)),
    *((name, False) for name in (MODELS, DEAD_LETTERS, TELEMETRY_COST)),
)
"""(plain name, whether it is split like packets) of every topic that the worker touches."""


def run_worker(
    settings: PacketModelSettings,
    bus: BusSettings,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None = None,
) -> tuple[int, Counter[str]]:
    """Run a packet model worker until it is stopped; return (exit code, counters).

    ``stop`` ends the wait for a first model; once there is one, signals do. While there is none the payloads wait on
    the bus, for the worker is not in its group yet.

    Raises:
        BusError: no broker, a topic is missing or split otherwise, or the bus fails for good.
        SettingsError: ONNX Runtime is not installed.
    """
    # Each model has readers of its own: in one group, two models would each get half of the payloads.
    settings = settings.model_copy(update={"group": f"{settings.group}.{settings.name}"})
    sink = BusProducer(bus, only_failures=True)
    if not sink.connect(stop=stop, on_wait=on_wait):
        return 0, Counter()
    for name, by_flow in REQUIRED:
        sink.require(topic_name(bus, name), bus.partitions if by_flow else None)
    check_group(bus, settings.group)  # before a wait for a model that may be long
    with LiveModel(settings, bus) as live:
        health = Health(settings.stall_s)
        # Waiting for a model is no fault: whoever checks the worker's health is told so from the start.
        with serving(settings, [], health):
            model = first_version(live, stop, health, _missing(settings))
        if model is None:
            return 0, Counter()
        agent = PacketModelAgent(settings, bus, sink, model, live)
        code = Runner(agent, INPUT_TOPICS, bus, settings).run()
    return code, agent.counts()


def _missing(settings: PacketModelSettings) -> str:
    return (
        f"no usable version of the model {settings.name} is live yet (library {open_library(settings.library).root}): "
        "payloads wait on the bus; flowgauge packet-models publish makes one live"
    )
