"""``flowgauge record``: the bus on one side, the recording on the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from flowgauge.bus import admin, broker_topics, project_topics
from flowgauge.recording.config import RecordSettings
from flowgauge.recording.rows import Message
from flowgauge.recording.segment import Recorder
from flowgauge.recording.source import Reader, Source, choose
from flowgauge.recording.store import Store
from flowgauge.settings import Effective
from flowgauge.workers import waiting as tell_waiting
from producers.bus import BusProducer, Sink
from producers.config import BusSettings, topic_name
from producers.health import Health
from producers.metrics import serving
from producers.telemetry import StageMeter, Totals
from schemas.codec import encode
from schemas.errors import BusError, InputError
from schemas.topics import DEAD_LETTERS, TELEMETRY_COST
from streams.config import StreamsSettings
from streams.dead_letters import DeadLetters, log

STAGE = "record"
_POLL_S = 0.2
_DRAIN_S = 10.0


def run(effective: Effective, out: Path, beginning: bool, follow: bool, stop: Callable[[], bool]) -> Totals:
    """Record until ``stop`` says so or, without ``follow``, until the topics' present ends; return the counts.

    Raises:
        BusError: no broker, no topic, or the recording does not belong to this bus.
        InputError: the folder cannot be written.
        SettingsError: a topic that cannot be recorded.
    """
    bus, settings = effective.get("bus", BusSettings), effective.get("record", RecordSettings)
    with Store(out) as store:  # a folder that cannot be used is told before the bus is waited for
        sink = BusProducer(bus)
        if not sink.connect(on_wait=tell_waiting):
            return Totals()
        client = admin(bus)
        there = broker_topics(client, bus)
        topics = project_topics(effective.get("streams", StreamsSettings))
        sources = choose(settings.topics, topics, there, bus)
        for name in (DEAD_LETTERS, *((TELEMETRY_COST,) if settings.telemetry_interval_s else ())):
            sink.require(topic_name(bus, name))
        cluster = str(client.list_topics(timeout=bus.connect_timeout_s).cluster_id or "")
        meter = StageMeter(STAGE, "rows")
        recorder = Recorder(store, settings, {"bus": cluster}, meter, lambda: settle(sink))
        with closing(Reader(bus)) as reader:
            worker = Worker(bus, settings, recorder, reader, sink)
            worker.place(store, sources, cluster, beginning)
            with serving(settings, [meter], worker.health):
                worker.run(follow, stop)
    return meter.totals()


def settle(sink: Sink) -> None:
    """Wait until the bus has what was set aside: an offset that is passed must not come again.

    Raises:
        BusError: it does not take it.
    """
    if sink.outstanding:
        sink.flush(_DRAIN_S)
    sink.check()
    if sink.outstanding:
        raise BusError(f"{sink.outstanding} messages set aside or of telemetry have no answer from the bus")


class Worker:
    """The loop: read, take, write what is due, tell how things stand."""

    def __init__(
        self, bus: BusSettings, settings: RecordSettings, recorder: Recorder, reader: Reader, sink: Sink
    ) -> None:
        self.health = Health(settings.stall_s)
        self._bus, self._settings = bus, settings
        self._recorder, self._reader, self._sink = recorder, reader, sink
        self._letters = DeadLetters(STAGE, bus, sink)
        self._ends: dict[tuple[str, int], int] = {}
        self._done = 0
        self._away = False
        self._follow = True
        self._next_telemetry_s = 0.0

    def place(self, store: Store, sources: list[Source], cluster: str, beginning: bool) -> None:
        """Find out where each partition goes on: after its last file, else at the topic's beginning or end.

        Raises:
            BusError: the recording is of another bus, or of a topic that was made anew.
        """
        for source in sources:
            for partition in range(source.partitions):
                low, high = self._reader.bounds(source.topic, partition)
                note = store.note(source.topic, partition)
                if note is None:
                    at = low if beginning else high
                    store.begin(source.topic, partition, at, {"bus": cluster})
                else:
                    at = int(note["next_offset"])
                    self._check(store.root, source.topic, partition, at, high, note["bus"], cluster)
                self._recorder.add(source.topic, partition, source.shape, at)
                self._ends[source.topic, partition] = high
                if at < low:
                    self._skip(source.topic, partition, low)

    def _check(
        self, root: Path, topic: str, partition: int, at: int, high: int, bus: str, cluster: str
    ) -> None:
        if bus and cluster and bus != cluster:
            raise BusError(
                f"{root} is recorded from another bus (cluster {bus}; {self._bus.bootstrap} is {cluster})"
            )
        if at > high:
            raise BusError(
                f"{self._bus.bootstrap}: {topic} [{partition}] ends at offset {high}, but {root} holds it up to "
                f"{at}: the topic was made anew; record into another folder"
            )

    def _skip(self, topic: str, partition: int, low: int) -> None:
        lost = self._recorder.skip_to(topic, partition, low)
        log.warning(
            "%s [%d]: %d messages were dropped by the bus before they were recorded", topic, partition, lost
        )

    def run(self, follow: bool, stop: Callable[[], bool]) -> None:
        """Record; on the way out everything taken is written."""
        self._follow = follow
        self._reader.start({place: self._recorder.position(*place) for place in self._ends})
        try:
            while not stop() and (follow or self._behind()):
                for place, messages in self._reader.read(_POLL_S, self._gone, self._lost_bus).items():
                    self._take(*place, messages)
                self._recorder.write_due()
                self._sink.check()
                self._tell()
            self._recorder.write_all()
        except InputError as error:
            rows = self._recorder.waiting_rows
            raise InputError(
                f"{error}; {rows} rows are not written, and a restart goes on with them"
            ) from error
        self._tell(last=True)
        settle(self._sink)

    def _behind(self) -> bool:
        return any(self._recorder.position(*place) < end for place, end in self._ends.items())

    def _take(self, topic: str, partition: int, messages: list[Message]) -> None:
        self._away = False
        self._done += len(messages)
        plain = topic.removeprefix(self._bus.topic_prefix)

        def refuse(message: Message, why: str) -> None:
            self._recorder.meter.count("messages_set_aside")
            self._letters.put(plain, partition, message.offset, message.key, message.value, why)

        if not self._follow:
            messages = [m for m in messages if m.offset < self._ends[topic, partition]]
        self._recorder.take(topic, partition, messages, refuse)

    def _gone(self, topic: str, partition: int) -> None:
        low, _ = self._reader.bounds(topic, partition)
        self._skip(topic, partition, low)
        self._reader.move(topic, partition, low)

    def _lost_bus(self, why: str) -> None:
        if not self._follow:
            raise BusError(f"{self._bus.bootstrap}: the broker went away: {why}")
        if not self._away:
            self._away = True
            log.warning("bus %s: no broker answers; recording goes on when one does", self._bus.bootstrap)

    def _tell(self, last: bool = False) -> None:
        now_s = time.monotonic()
        interval_s = self._settings.telemetry_interval_s
        if not last and now_s < self._next_telemetry_s:
            return
        self._next_telemetry_s = now_s + (interval_s or 1.0)
        meter = self._recorder.meter
        waiting = self._reader.lag(self._recorder.position)
        self.health.tick(waiting, self._done)
        meter.lag_records = None if last else waiting  # without lag it is a process's last word
        if interval_s:
            record: dict[str, Any] = meter.snapshot()
            self._sink.produce(
                topic_name(self._bus, TELEMETRY_COST), encode("CostTelemetry", record), 0, STAGE
            )
