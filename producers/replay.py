"""Replays captures into the bus: paced or at full speed, once or in loops, as one probe or several.

Several probes share one process and one offset of time. Paced, each sends what is due; at full speed the one
whose next packet is the earliest goes on, a block at a time. Packets of a partition keep the order of the
captures. Each loop is an epoch of its own that ends with an end-of-stream mark on every partition, so its
flows are new.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from producers.bus import BusProducer, Sink
from producers.config import BusSettings, PayloadSettings, ReplaySettings, topic_name
from producers.first_packets import Selection
from producers.followed import FlowRules
from producers.labels import LabelTable, read_labels
from producers.metrics import serving
from producers.pacing import Clock, Pacer, SystemClock, Timeline
from producers.payloads.stream import PayloadStream
from producers.privacy.config import PrivacySettings
from producers.privacy.privacy import Privacy, check_payloads, open_privacy
from producers.probes import ProbeSpec, total_bytes
from producers.publisher import Admit, Publisher
from producers.sources.capture import STDIN
from producers.stream import ProbeStream
from producers.summary import ReplaySummary
from schemas.codec import encode
from schemas.errors import BusError, SettingsError
from schemas.flow_key import format_flow_id, partition_of
from schemas.packets import NO_EXTRA, Extra, PacketBatch
from schemas.topics import LABELS, PACKETS, PAYLOADS, TELEMETRY_COST

OnProgress = Callable[[int, int, float | None], None]
"""Told packets sent, capture bytes read, and the fraction done (None: not known)."""

_PROGRESS_NS = 100_000_000
_NAP_NS = 250_000_000
"""Longest sleep, so that answers of the bus, telemetry and progress do not wait for a silent capture."""
_LOOP_GAP_NS = 1_000_000
_INTERRUPTED_DRAIN_S = 10.0


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay."""

    speed: float | None = 1.0
    """Times as fast as captured; None: as fast as it goes."""
    loops: int = 1
    labels: str | None = None
    """Labels file; its flows are labelled for every probe."""
    settings: ReplaySettings = field(default_factory=ReplaySettings)
    extra: Extra = NO_EXTRA
    """What packet batches hold beyond the usual columns."""
    payloads: PayloadSettings = field(default_factory=PayloadSettings)
    flow_rules: FlowRules = field(default_factory=FlowRules)
    """When flows end, for the ids of the payloads' flows."""
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    """What is hidden before it leaves."""
    selection: Selection | None = None
    """Which packets are sent; None: all."""


class ReplayFailed(BusError):
    """The bus failed during a replay; ``summary`` holds what became of the packets."""

    def __init__(self, message: str, summary: ReplaySummary) -> None:
        super().__init__(message)
        self.summary = summary


def run_replay(
    probes: Sequence[ProbeSpec],
    bus: BusSettings,
    options: ReplayOptions,
    *,
    on_progress: OnProgress | None = None,
    on_wait: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    admit: Admit | None = None,
) -> ReplaySummary:
    """Replay captures into the bus.

    Args:
        probes: who replays what; see ``parse_probes``.
        bus: the broker, its partitions and topic prefix.
        options: speed, loops, labels and settings.
        on_progress: told how far it is, ten times a second.
        on_wait: told once, in one line, if the broker does not answer yet.
        stop: ends the replay early, in order: what was taken in is sent and the end is marked.
        admit: flow control for a broker that does not keep what is not consumed (the embedded one).

    Raises:
        InputError: a capture or the labels file cannot be read; what came before is sent and its end marked.
        BusError: no broker, a topic is missing or has other partitions, or messages were not delivered.
        SettingsError: options that contradict each other.
    """
    stop = stop or threading.Event()
    _check(probes, options)
    privacy = open_privacy(options.privacy)
    labels = read_labels(options.labels, privacy) if options.labels else None
    total = total_bytes(probes)
    producer = BusProducer(bus)
    if producer.connect(stop=stop, on_wait=on_wait):
        producer.require(topic_name(bus, PACKETS), bus.partitions)
        if labels is not None:
            producer.require(topic_name(bus, LABELS), bus.partitions)
        if options.settings.telemetry_interval_s:
            producer.require(topic_name(bus, TELEMETRY_COST))
        if options.payloads.mode != "off":
            producer.require(topic_name(bus, PAYLOADS), bus.partitions)
    run = Replay(probes, bus, options, producer, labels, stop=stop, admit=admit, total=total, privacy=privacy)
    run.on_progress = on_progress
    with serving(options.settings, run.publisher.meters, run.publisher.health):
        return run.run()


def _check(probes: Sequence[ProbeSpec], options: ReplayOptions) -> None:
    if options.loops < 1:
        raise SettingsError(f"--loop {options.loops}: at least 1")
    if options.loops > 1 and any(STDIN in probe.captures for probe in probes):
        raise SettingsError("--loop: standard input cannot be read twice")
    check_payloads(options.privacy, options.payloads)


class Replay:
    """One run of a replay into a sink; ``run`` may be called once."""

    def __init__(
        self,
        probes: Sequence[ProbeSpec],
        bus: BusSettings,
        options: ReplayOptions,
        sink: Sink,
        labels: LabelTable | None = None,
        *,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
        admit: Admit | None = None,
        total: int | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self.on_progress: OnProgress | None = None
        self._options, self._bus, self._sink = options, bus, sink
        self._stop = stop or threading.Event()
        self._clock = clock or SystemClock()
        self._total = total
        self._labels_topic = topic_name(bus, LABELS)
        self._started_ns = self._clock.wall_ns()
        self.publisher = Publisher("replay", bus, sink, self._clock.wall_ns, options.settings.stall_s, admit)
        self._streams = [
            ProbeStream(
                spec,
                bus.partitions,
                self._started_ns,
                options.settings,
                labels,
                self._emit,
                self._emit_label,
                options.extra,
                self._payload_stream(spec.name),
                privacy,
                options.selection,
            )
            for spec in probes
        ]
        self._privacy = privacy
        self._pacer: Pacer | None = None
        self._linger_ns = int(options.settings.linger_ms * 1e6)
        self.meter = self.publisher.meter
        for stream in self._streams:
            self.meter.state_bytes += stream.batcher.state_bytes
            if stream.first is not None:
                self.publisher.add_first(stream.first)
        self._next_progress_ns = self._next_telemetry_ns = self._clock.monotonic_ns()
        self.summary = ReplaySummary({s.spec.name: s.summary for s in self._streams}, options.speed)

    def _payload_stream(self, probe: str) -> PayloadStream | None:
        if self._options.payloads.mode == "off":
            return None
        stream = PayloadStream(
            probe,
            self._options.payloads,
            self._options.flow_rules,
            self._bus.partitions,
            self._started_ns,
            self.publisher.send_payloads,
            replayed=True,
        )
        self.publisher.add_payloads(stream)
        return stream

    def run(self) -> ReplaySummary:
        """Replay all loops, drain the sink and return the summary; raises as ``run_replay`` does."""
        begin_ns, begin_cpu_ns = self._clock.monotonic_ns(), time.process_time_ns()
        failure: BusError | None = None
        try:
            self._loops()
        except BusError as error:
            failure = error
        finally:
            interrupted = self._stop.is_set()
            timeout_s = self._options.settings.drain_timeout_s
            if failure is None:
                self._telemetry()
                self._sink.flush(min(timeout_s, _INTERRUPTED_DRAIN_S) if interrupted else timeout_s)
            self.summary.interrupted = interrupted
            self.summary.duration_s = (self._clock.monotonic_ns() - begin_ns) / 1e9
            self.summary.cpu_s = (time.process_time_ns() - begin_cpu_ns) / 1e9
            self._account()
        if failure is not None:
            raise ReplayFailed(str(failure), self.summary) from failure
        undelivered = self.summary.messages_failed + self.summary.messages_pending
        if self.summary.messages_failed or (undelivered and not interrupted):
            counts = f"{undelivered:,} of {self.summary.messages_sent:,} messages"
            raise ReplayFailed(f"bus {self._bus.bootstrap}: {counts} were not acknowledged", self.summary)
        self._progress(1.0)
        return self.summary

    def _loops(self) -> None:
        """Run the loops; each is ended in order, whatever happens in it, unless the bus itself fails."""
        offset_ns: int | None = None
        for _ in range(self._options.loops):
            if self._stop.is_set():
                return
            self.summary.loops += 1
            finished = False
            try:
                offset_ns = self._loop(offset_ns)
                finished = not self._stop.is_set()
            except BusError:
                for stream in self._streams:
                    stream.close()
                raise
            except BaseException:
                self._end(finished=False)
                raise
            self._end(finished=finished)

    def _end(self, *, finished: bool) -> None:
        for stream in self._streams:
            stream.end(finished=finished)

    def _loop(self, offset_ns: int | None) -> int | None:
        """Replay all captures once with their times moved; return the offset for the next loop."""
        heads = [head for stream in self._streams if (head := stream.start()) is not None]
        if not heads:
            return offset_ns
        first_ns = min(heads)
        if offset_ns is None:
            is_now = self._options.settings.rebase == "now"
            offset_ns = self._started_ns - first_ns if is_now else 0
        max_gap_ns = int(min(self._options.settings.max_gap_s, 1e9) * 1e9)
        speed = self._options.speed
        for stream in self._streams:
            timeline = None if speed is None else Timeline(max_gap_ns, first_ns + offset_ns)
            stream.begin(offset_ns, first_ns + offset_ns, timeline)
        self._pacer = None if speed is None else Pacer(self._clock, speed)
        while not self._stop.is_set():
            live = [stream for stream in self._streams if stream.head_ns is not None]
            if not live:
                break
            if self._pacer is None:
                min(live, key=lambda stream: stream.head_ns or 0).advance(None)
                self._keep_house()
            else:
                self._step(self._pacer, live)
        span = max(s.latest_ns for s in self._streams) - min(s.earliest_ns for s in self._streams)
        return offset_ns + span + _LOOP_GAP_NS

    def _step(self, pacer: Pacer, live: list[ProbeStream]) -> None:
        """Send what is due and has waited, then sleep until the oldest packet's linger is nearly over.

        What has waited for half the linger goes too: so all partitions leave together at one wake, not each at one
        of its own.
        """
        linger_ns = pacer.scaled_ns(self._linger_ns)
        now_ns = pacer.now_ns()
        for stream in self._streams:
            stream.advance(now_ns)
            stream.flush(now_ns - linger_ns // 2)
        self._keep_house()
        oldest_ns = now_ns + pacer.scaled_ns(_NAP_NS)
        for stream in self._streams:
            oldest_ns = min(oldest_ns, stream.waiting_since_ns)
            if stream.head_ns is not None:
                oldest_ns = min(oldest_ns, stream.head_due_ns)
        if any(stream.head_ns is not None for stream in live):
            pacer.wait_until(oldest_ns + linger_ns * 4 // 5, self._stop)

    def _emit(self, batch: PacketBatch, due_ns: int) -> None:
        if self._pacer is not None and batch.packets:
            late_ns = self._pacer.behind_ns(due_ns)
            self.summary.late_max_ns = max(self.summary.late_max_ns, late_ns)
            self.meter.record_ns(late_ns, batch.packets)
        self.publisher.send(batch)

    def _emit_label(self, table: LabelTable, row: int, flow_id: int, probe: str, offset_ns: int) -> None:
        record = table.record(row, flow_id, probe, offset_ns, self._clock.wall_ns())
        value = encode("Label", record)
        partition = int(partition_of(np.uint64(flow_id), self._bus.partitions))
        self._sink.produce(self._labels_topic, value, partition, format_flow_id(flow_id))
        self.meter.count("labels")
        self.meter.output_bytes += len(value)

    def _keep_house(self) -> None:
        self._sink.check()
        now_ns = self._clock.monotonic_ns()
        if now_ns >= self._next_progress_ns:
            self._next_progress_ns = now_ns + _PROGRESS_NS
            self._progress(None)
            self._tell_meter()
        interval_ns = int(self._options.settings.telemetry_interval_s * 1e9)
        if interval_ns and now_ns >= self._next_telemetry_ns + interval_ns:
            self._next_telemetry_ns = now_ns
            self._telemetry()

    def _progress(self, fraction: float | None) -> None:
        if self.on_progress is None:
            return
        read = sum(stream.bytes_read for stream in self._streams)
        if fraction is None and self._total:
            done = self._total * (self.summary.loops - 1) + read
            fraction = min(1.0, done / (self._total * self._options.loops))
        self.on_progress(self.summary.total("packets_sent"), read, fraction)

    def _tell_meter(self) -> None:
        names = sum((stream.names_found() for stream in self._streams), Counter[str]())
        self.publisher.tell(
            sum((stream.frames() for stream in self._streams), Counter[str]()),
            {
                **{f"names_{source}": count for source, count in names.items()},
                "addresses_computed": 0 if self._privacy is None else self._privacy.computed,
            },
            self._clock.monotonic_ns(),
        )

    def _telemetry(self) -> None:
        self._tell_meter()
        if self._options.settings.telemetry_interval_s and self.summary.loops:
            self.publisher.telemetry()

    def _account(self) -> None:
        """Fill in what the sink says became of the messages."""
        summary, sink = self.summary, self._sink
        self.publisher.tell_payloads()
        summary.payloads, summary.end_marks = self.publisher.payload_counts, self.publisher.end_marks
        for stream in self._streams:
            probe = stream.summary
            probe.packets_unsent = probe.packets_accepted - probe.packets_sent - probe.packets_left_out
            summary.warnings += stream.warnings
        summary.messages_sent, summary.message_bytes = sink.sent, sink.sent_bytes
        summary.messages_acked, summary.messages_failed = sink.acked, sink.failed
        summary.messages_pending = sink.outstanding
        summary.packets_acked, summary.packets_failed = sink.acked_items, sink.failed_items
        summary.packets_pending = (
            summary.total("packets_sent") - summary.packets_acked - summary.packets_failed
        )
