"""The live probe: reads its sources, batches what comes, sends what is full or has waited, and keeps house.

Everything but the sources and the sink is pure: tests give it sources and a clock of their own.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

from producers.batcher import Batcher
from producers.bus import Sink
from producers.config import BusSettings, PayloadSettings
from producers.first_packets import FirstPackets, Selection
from producers.followed import FlowRules
from producers.names.finder import NameFinder
from producers.pacing import Clock, SystemClock
from producers.packet_stream import Origin, PacketStream
from producers.payloads.stream import PayloadStream
from producers.privacy.privacy import Privacy
from producers.probe.config import RELOADED, ProbeSettings
from producers.probe.log import LOGGER, set_up
from producers.probe.source import NAP_S, LiveSource, Reading, Remembers
from producers.probe.summary import LiveSummary
from producers.probe.tshark import Dissects
from producers.publisher import Publisher
from producers.sequence import Sequencer
from producers.spool.sink import SpoolSink
from producers.summary import ProbeSummary
from schemas.errors import BusError
from schemas.packets import NO_EXTRA, Extra, PacketBatch

_STEP_NS = 500_000_000
"""The wall clock jumped, if it moved by so much more or less than the one that never goes back."""
_HOUSE_NS = 100_000_000
_LAST_LOOK_NS = 50_000_000
"""How long packets are waited for that were taken in, but not handed over yet, when the probe stops."""

log = logging.getLogger(LOGGER)


@dataclass(frozen=True)
class ProbeOptions:
    """How a live probe runs."""

    name: str
    settings: ProbeSettings = field(default_factory=ProbeSettings)
    extra: Extra = NO_EXTRA
    """What packet batches hold beyond the usual columns."""
    payloads: PayloadSettings = field(default_factory=PayloadSettings)
    flow_rules: FlowRules = field(default_factory=FlowRules)
    """When flows end, for the ids of the payloads' flows."""
    selection: Selection | None = None
    """Which packets are sent; None: all."""
    privacy: Privacy | None = None
    """Hides addresses and names before they leave; opened while the process may still read the key."""
    number: int = 0
    """Which of the processes that share the packets this is."""
    marks_end: bool = True
    """Whether the end is marked on the bus: where processes share, ``mark_end`` does when all have ended."""


class LiveClock(Clock, Protocol):
    """What tells the time, and waits for sources; tests move it by hand."""

    def wait_for(self, files: Sequence[int], seconds: float, stop: threading.Event) -> None:
        """Sleep until one of the files is readable, for so many seconds at most."""


class SystemLiveClock(SystemClock):
    """The machine's clock; it also waits for sources."""

    def wait_for(self, files: Sequence[int], seconds: float, stop: threading.Event) -> None:
        """Sleep until one of the files is readable, for so many seconds at most."""
        poll = select.poll()
        for file in files:
            poll.register(file, select.POLLIN)
        if not stop.is_set():
            poll.poll(max(0.0, seconds) * 1000)


class _Lane:
    """One source and the stream of its packets."""

    def __init__(self, source: LiveSource, stream: PacketStream) -> None:
        self.source, self.stream = source, stream
        self.names: NameFinder | None = None

    def names_found(self) -> dict[str, int]:
        """Return the names found by those who look for them now, by where."""
        if self.names is None:
            return {}
        return {f"names_{source}": count for source, count in self.names.counts.items()}


class Probe:
    """One run of a live probe: it is made, given a sink by ``attach``, and then ``run`` once.

    What compiles or allocates is done when it is made, so that rights can be dropped between that and ``attach``,
    before threads are started.

    Args:
        sources: where packets come from, open.
        bus: partitions and names of topics.
        options: how.
        stop: ends the run in order: what was taken in is sent and the end is marked.
        clock: tells the time and waits.
    """

    def __init__(
        self,
        sources: Sequence[LiveSource],
        bus: BusSettings,
        options: ProbeOptions,
        *,
        stop: threading.Event | None = None,
        clock: LiveClock | None = None,
    ) -> None:
        self._options, self._bus = options, bus
        self._stop, self._clock = stop or threading.Event(), clock or SystemLiveClock()
        self.epoch = self._clock.wall_ns() + options.number
        self.summary = LiveSummary(options.name, [source.name for source in sources])
        self.summary.sent = ProbeSummary(
            self.summary.sources,
            packets_by_partition=[0] * bus.partitions,
            batches_by_partition=[0] * bus.partitions,
        )
        settings = options.settings
        self._privacy = options.privacy
        self.publisher: Publisher
        sequencer = Sequencer(bus.partitions, self.epoch)
        self._lanes = [self._lane(source, sequencer, number) for number, source in enumerate(sources)]
        self._take_in(settings)
        self._next_house_ns = self._next_telemetry_ns = self._clock.monotonic_ns()
        self._clocks_apart_ns = self._apart_ns()
        self._events: Counter[str] = Counter()
        self._turn_ns = 0
        """The longest turn of the loop since it was last told: for so long the ring has to hold what comes."""

    def _lane(self, source: LiveSource, sequencer: Sequencer, number: int) -> _Lane:
        options, settings = self._options, self._options.settings
        payloads = None
        if options.payloads.mode != "off":
            payloads = PayloadStream(
                options.name,
                options.payloads,
                options.flow_rules,
                self._bus.partitions,
                self.epoch + (number << 8),
                lambda batch: self.publisher.send_payloads(batch),
                replayed=False,
            )
        origin = Origin(options.name, replayed=False)
        first = None
        if options.selection is not None:
            first = FirstPackets(options.selection, self._bus.partitions, options.extra)
        stream = PacketStream(
            origin, self._batcher(settings), sequencer, self.summary.sent, self._emit, payloads, first
        )
        lane = _Lane(source, stream)
        self._start(lane, settings)
        return lane

    def _take_in(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._linger_ns = round(settings.linger_ms * 1e6)
        self._telemetry_ns = round(settings.telemetry_interval_s * 1e9)

    def reload(self, settings: ProbeSettings) -> list[str]:
        """Take in settings that were read anew; return those that differ and need a restart.

        Raises:
            SettingsError: one cannot be used; then nothing has changed.
        """
        before, reloaded = self._settings, RELOADED
        changed = {
            name for name in ProbeSettings.model_fields if getattr(before, name) != getattr(settings, name)
        }
        if settings.names and not self._options.settings.names:
            # What reads names would have to be compiled first: a minute in which packets get lost.
            reloaded, settings = RELOADED - {"names"}, settings.model_copy(update={"names": False})
        for lane in self._lanes:
            lane.source.reload(settings)
        if "names" in changed & reloaded:
            for lane in self._lanes:
                self._events.update(lane.names_found())
                lane.stream.batch_with(self._batcher(settings))
                self._start(lane, settings)
        taken = {name: getattr(settings, name) for name in RELOADED}
        self._take_in(before.model_copy(update=taken))
        set_up(settings.log_level, settings.log_interval_s)
        self._events["reloads"] += 1
        return sorted(changed - reloaded)

    def _batcher(self, settings: ProbeSettings) -> Batcher:
        extra = self._options.extra
        return Batcher(self._bus.partitions, settings.batch_packets, extra, names=settings.names)

    def _start(self, lane: _Lane, settings: ProbeSettings) -> None:
        """Have a source read as the settings say."""
        payloads = lane.stream.payloads
        if settings.names:
            # Loaded else when QUIC is first met, when the user that the probe became may not be allowed to read it.
            import_module("producers.names.quic")
        lane.names = NameFinder(self._privacy) if settings.names else None
        tap = None if payloads is None else payloads.sampler
        lane.source.start(
            Reading(settings.block_packets, self._options.extra, lane.names, tap, self._privacy)
        )

    def attach(self, sink: Sink) -> Publisher:
        """Say where messages go; return what counts them."""
        self._sink = sink
        self.publisher = Publisher(
            "probe", self._bus, sink, self._clock.wall_ns, self._options.settings.stall_s
        )
        self.publisher.meter.detail = self._options.name
        for lane in self._lanes:
            self.publisher.meter.state_bytes += lane.stream.batcher.state_bytes
            if lane.stream.payloads is not None:
                self.publisher.add_payloads(lane.stream.payloads)
            if lane.stream.first is not None:
                self.publisher.add_first(lane.stream.first)
        return self.publisher

    def run(self, on_house: Callable[[], None] | None = None) -> LiveSummary:
        """Capture until stopped, or until every source is at its end; drain the sink and return the summary.

        ``on_house`` is called about ten times a second.

        Raises:
            BusError: messages were not delivered.
            FlowgaugeError: a source cannot go on; what came before is sent.
        """
        self._on_house = on_house or (lambda: None)
        begin_ns, begin_cpu_ns = self._clock.monotonic_ns(), time.process_time_ns()
        try:
            self._loop()
        except BusError:
            raise
        except BaseException:
            self._end()
            raise
        else:
            self._end()
        finally:
            self.summary.duration_s = (self._clock.monotonic_ns() - begin_ns) / 1e9
            self.summary.cpu_s = (time.process_time_ns() - begin_cpu_ns) / 1e9
            self._account()
            for lane in self._lanes:
                lane.source.close()
        if self._sink.failed or self._sink.outstanding:
            raise BusError(
                f"bus {self._bus.bootstrap}: {self._sink.failed + self._sink.outstanding:,} of "
                f"{self._sink.sent:,} messages were not acknowledged"
            )
        return self.summary

    def _loop(self) -> None:
        began_ns = self._clock.monotonic_ns()
        while not self._stop.is_set():
            took = self._read()
            now_ns = self._clock.monotonic_ns()
            self._turn_ns, began_ns = max(self._turn_ns, now_ns - began_ns), now_ns
            # What has waited for half the linger goes too, so that all partitions leave together.
            for lane in self._lanes:
                lane.stream.flush(now_ns - self._linger_ns // 2)
            if now_ns >= self._next_house_ns:
                self._next_house_ns = now_ns + _HOUSE_NS
                self._keep_house(now_ns)
            if not took:
                if all(lane.source.at_end for lane in self._lanes):
                    return
                self._wait(now_ns)
                began_ns = self._clock.monotonic_ns()

    def _read(self) -> bool:
        """Take in a block of each source; return whether there was any."""
        took = False
        for lane in self._lanes:
            block = lane.source.read()
            if block is not None:
                lane.stream.at(block.point)
                lane.stream.take(
                    block.columns,
                    (block.first, block.columns.packets),
                    self._clock.monotonic_ns(),
                    block.told,
                )
                took = True
            if isinstance(lane.source, Dissects):
                self.publisher.send_fields(self._options.name, lane.source.dissected())
        return took

    def _wait(self, now_ns: int) -> None:
        oldest_ns = min(lane.stream.waiting_since_ns for lane in self._lanes)
        seconds = min(NAP_S, (oldest_ns + self._linger_ns * 4 // 5 - now_ns) / 1e9)
        files = [file for lane in self._lanes if not lane.source.at_end for file in lane.source.files()]
        self._clock.wait_for(files, seconds, self._stop)

    def _end(self) -> None:
        """Take in what has come, send what waits, mark the end and wait for the broker."""
        for lane in self._lanes:
            lane.source.stop()
        quiet_ns = self._clock.monotonic_ns() + _LAST_LOOK_NS
        while self._read() or self._clock.monotonic_ns() < quiet_ns:
            self._clock.wait_for((), _LAST_LOOK_NS / 4e9, threading.Event())
        for lane in self._lanes:
            lane.source.tick()
            lane.stream.flush()
        if self._options.marks_end:
            first, *others = self._lanes
            for lane in others:
                if lane.stream.payloads is not None:
                    lane.stream.payloads.end()
            first.stream.end()
        self._telemetry()
        self._sink.flush(self._settings.drain_timeout_s)
        self._settle()

    def _emit(self, batch: PacketBatch, since_ns: int) -> None:
        if batch.packets:
            self.publisher.meter.record_ns(self._clock.monotonic_ns() - since_ns, batch.packets)
        self.publisher.send(batch)

    def _keep_house(self, now_ns: int) -> None:
        self._sink.check()
        self._on_house()
        for lane in self._lanes:
            lane.source.tick()
        self._settle()
        self._watch_clock()
        self._tell(now_ns)
        if self._telemetry_ns and now_ns >= self._next_telemetry_ns + self._telemetry_ns:
            self._next_telemetry_ns = now_ns
            self._telemetry()

    def _settle(self) -> None:
        """Tell sources that remember, once the bus has everything that was read."""
        waits = min(lane.stream.waiting_since_ns for lane in self._lanes) <= self._clock.monotonic_ns()
        if not waits and not self._sink.outstanding and not self._sink.failed:
            for lane in self._lanes:
                if isinstance(lane.source, Remembers):
                    lane.source.settled()

    def _apart_ns(self) -> int:
        return self._clock.wall_ns() - self._clock.monotonic_ns()

    def _watch_clock(self) -> None:
        apart_ns = self._apart_ns()
        step_ns, self._clocks_apart_ns = apart_ns - self._clocks_apart_ns, apart_ns
        if abs(step_ns) > _STEP_NS:
            self._events["clock_steps"] += 1
            log.warning("the clock was set %+.3f s; packets have its new time from now on", step_ns / 1e9)

    def frames(self) -> Counter[str]:
        """Return the packets seen, and by reason those skipped, over all sources."""
        return sum((lane.source.frames() for lane in self._lanes), Counter[str]())

    def events(self) -> Counter[str]:
        """Return other counts of the sources, of the names found and of the clock."""
        found = self._events.copy()
        if self._privacy is not None:
            found["addresses_computed"] = self._privacy.computed
        for lane in self._lanes:
            found.update(lane.source.events())
            found.update(lane.names_found())
        return found

    def _tell(self, now_ns: int) -> None:
        self.publisher.tell(self.frames(), self.events(), now_ns)
        self.publisher.meter.gauge("turn_max_ms", self._turn_ns / 1e6)
        self.summary.turn_max_ns = max(self.summary.turn_max_ns, self._turn_ns)
        for lane in self._lanes:
            for name, value in lane.source.gauges().items():
                self.publisher.meter.gauge(name, value)

    def _telemetry(self) -> None:
        self._tell(self._clock.monotonic_ns())
        if self._telemetry_ns:
            self.publisher.telemetry()
        self._turn_ns = 0

    def _account(self) -> None:
        summary, sink = self.summary, self._sink
        self._tell(self._clock.monotonic_ns())
        frames = self.frames()
        summary.packets_seen = frames.pop("read", 0)
        summary.skipped, summary.events = frames, self.events()
        summary.packets_acked, summary.packets_failed = sink.acked_items, sink.failed_items
        if isinstance(sink, SpoolSink):
            summary.packets_kept = sink.kept_items
        summary.messages, summary.message_bytes = sink.sent, sink.sent_bytes
        summary.messages_acked, summary.end_marks = sink.acked, self.publisher.end_marks


def mark_end(name: str, bus: BusSettings, options: ProbeOptions, sink: Sink) -> None:
    """Mark the end of a probe on every partition, in an epoch of its own: for processes that do not mark theirs."""
    publisher = Publisher("probe", bus, sink, time.time_ns, options.settings.stall_s)
    stream = PacketStream(
        Origin(name, replayed=False),
        Batcher(bus.partitions, 1),
        Sequencer(bus.partitions, time.time_ns()),
        ProbeSummary([]),
        lambda batch, _since_ns: publisher.send(batch),
    )
    stream.end()
