"""Follows ``telemetry.cost`` and shows it: ``flowgauge costs``."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console, Group, RenderableType
from rich.live import Live

from flowgauge.bus import TIMEOUT_S, admin, broker_topics
from flowgauge.costs import PipelineCosts
from flowgauge.costs_view import LIVE, as_object, cost_table, probe_table, status_line, verdict_text
from flowgauge.interrupt import Stop, stopping
from flowgauge.outcome import FAILED, OK
from flowgauge.settings import Effective
from models.online.config import OnlineSettings
from producers.config import BusSettings, topic_name
from producers.security.access import why_missing
from producers.security.clients import client_properties, said
from schemas.codec import decode
from schemas.errors import BusError, CodecError, SettingsError
from schemas.topics import TELEMETRY_COST

LOOK_BACK_S = 600
_LAST_WORDS = 10_000
_POLL_S = 0.2
_REDRAW_S = 1.0
_BATCH = 500
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_window(text: str) -> float:
    """Return the seconds that ``10``, ``10s``, ``500ms`` or ``1m`` mean.

    Raises:
        SettingsError: none of these, or not from 1 s to an hour.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    seconds = float(found[1]) * _UNITS.get(found[2], 0.0) if found else 0.0
    if not 1 <= seconds <= 3600:
        raise SettingsError(f"--window {text}: a time from 1s to 1h, as 10s or 1m")
    return seconds


def run(effective: Effective, window: str, follow: bool, as_json: bool) -> int:
    """Show the costs until stopped, or once; return the exit code."""
    window_s = parse_window(window)
    bus = effective.get("bus", BusSettings)
    models = effective.get("models", OnlineSettings)
    with stopping() as stop:
        reader = CostReader(bus, {models.name: models.representations}, window_s)
        try:
            reader.catch_up(stop)
            if follow:
                _follow(reader, stop, window_s, as_json)
        finally:
            reader.close()
    if stop():
        return stop.exit_code
    _show_once(reader.costs, as_json)
    return FAILED if reader.costs.verdict() else OK


class CostReader:
    """Folds the topic into costs, beginning ten minutes back."""

    def __init__(
        self, bus: BusSettings, representations: dict[str, tuple[str, ...]], window_s: float
    ) -> None:
        """Connect; raises BusError without broker or topic."""
        self.unreadable = 0
        """Messages that are no cost records."""
        self._bus = bus
        self._topic = topic_name(bus, TELEMETRY_COST)
        there = broker_topics(admin(bus), bus)
        if self._topic not in there:
            raise BusError(f"{bus.bootstrap}: {why_missing(bus, [self._topic])}")
        self._consumer = Consumer(
            client_properties(
                bus,
                {
                    # librdkafka wants a group named; assign() never joins it and nothing is committed.
                    "group.id": "flowgauge-costs",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 50,
                },
            )
        )
        try:
            starts, self._ends, whole = self._places(there[self._topic], window_s)
        except KafkaException as error:
            self._consumer.close()
            raise BusError(f"{bus.bootstrap}: cannot read topic {self._topic}: {said(error)}") from error
        self.costs = PipelineCosts(whole=whole, representations=representations, window_s=window_s)
        self._consumer.assign(starts)
        self._next = {start.partition: start.offset for start in starts}

    def _places(self, partitions: int, window_s: float) -> tuple[list[TopicPartition], dict[int, int], bool]:
        """Return where to begin, where the topic ends now, and whether it is read from its first message on."""
        since_ms = int((time.time() - LOOK_BACK_S - window_s) * 1000)
        asked = [TopicPartition(self._topic, p, since_ms) for p in range(partitions)]
        starts = self._consumer.offsets_for_times(asked, timeout=TIMEOUT_S)
        ends, whole = {}, True
        for start in starts:
            place = TopicPartition(self._topic, start.partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
            if start.offset < 0:
                # Nothing is so new, or the broker cannot tell (the embedded one): then the last words.
                start.offset = max(low, high - _LAST_WORDS)
            ends[start.partition] = high
            whole = whole and start.offset == 0
        return starts, ends, whole

    def catch_up(self, stop: Stop) -> None:
        """Read up to where the topic ended at the start."""
        deadline = time.monotonic() + TIMEOUT_S
        while not stop() and not self._caught_up():
            if self.poll():
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise BusError(f"{self._bus.bootstrap}: no answer while reading topic {self._topic}")

    def _caught_up(self) -> bool:
        return all(self._next.get(p, 0) >= end for p, end in self._ends.items())

    def poll(self) -> int:
        """Take in what has come, waiting a moment for it; return how many messages it was."""
        messages = self._consumer.consume(_BATCH, _POLL_S)
        for message in messages:
            if message.error():
                if message.error().fatal():
                    raise BusError(f"{self._bus.bootstrap}: topic {self._topic}: {message.error().str()}")
                continue
            self._next[message.partition()] = message.offset() + 1
            try:
                self.costs.add(decode("CostTelemetry", message.value() or b""))
            except CodecError:
                self.unreadable += 1
        self.costs.look(time.time_ns())
        return len(messages)

    def close(self) -> None:
        """Leave the bus."""
        self._consumer.close()


def view(costs: PipelineCosts) -> RenderableType:
    """Return the table and what is wrong."""
    tables = [cost_table(costs.stages, LIVE, "Costs, and latency from the probe"), probe_table(costs)]
    return Group(*(table for table in tables if table is not None), verdict_text(costs))


def _follow(reader: CostReader, stop: Stop, window_s: float, as_json: bool) -> None:
    console = Console(highlight=False)
    if console.is_terminal and not as_json:
        with Live(view(reader.costs), console=console, auto_refresh=False) as live:
            _each(reader, stop, _REDRAW_S, lambda: live.update(view(reader.costs), refresh=True))
    else:
        _each(reader, stop, window_s, lambda: _line(reader.costs, as_json))


def _each(reader: CostReader, stop: Stop, every_s: float, show: Any) -> None:
    next_s = time.monotonic()
    while not stop():
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + every_s
            show()
        reader.poll()


def _line(costs: PipelineCosts, as_json: bool) -> None:
    print(json.dumps(as_object(costs)) if as_json else status_line(costs), flush=True)


def _show_once(costs: PipelineCosts, as_json: bool) -> None:
    if as_json:
        _line(costs, as_json=True)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(view(costs))
