"""The cascade's handler: rows of features from the bus in, a prediction about each flow out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from models.flow import octets
from models.flow.cascade import Cascade
from models.flow.config import CascadeSettings
from models.flow.late import LateLabels
from models.flow.pressure import Pressure
from models.flow.records import Names, Publisher
from models.flow.resume import Resumer
from models.flow.server import CascadeServer, Said
from models.flow.settling import warm_up
from models.flow.table import HELD
from models.flow.work import Arrived, ArrivedPayloads
from models.packet.live import Change, LiveModels
from producers.bus import Item, Sink, bring, octets_of
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas import features
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.features import FeatureBatch, decode_feature_batch
from schemas.flow_key import parse_flow_id
from schemas.payloads import decode_payload_batch
from schemas.topics import LABELS, PAYLOADS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.dead_letters import DeadLetters
from streams.faust_app import Later, Message

log = logging.getLogger("flowgauge")

STAGE = "cascade"
_DRIFT_EVERY_S = 60.0
"""Drift is told on the log no more often than that; telemetry has every signal."""


def input_topics(cascade: Cascade) -> tuple[str, ...]:
    """Return the plain names of the topics that a cascade needs, the one its flows are met on first; and labels."""
    names = [octets.topic_of(tier.representation) for tier in cascade.card.tiers]
    return (*dict.fromkeys(names), LABELS)


def _warm_up(tiers: int, name: str, partitions: int, topics: Sequence[str]) -> None:
    """Have what is compiled for a first message compiled, or loaded, before one waits."""
    features.warm_up()
    warm_up(tiers)
    if PAYLOADS in topics:
        octets.warm_up()
    none = Names([""])
    Publisher(name, none, none, partitions).items(np.zeros(2, HELD), True, (), "", 0)


class CascadeAgent:
    """Handler of ``features.…``, ``payloads`` and ``labels``: one cascade for all partitions in hand.

    What a fetch brought is answered at one stroke. Before a commit the flows that wait go to ``flows.state``, so that a
    worker that is killed leaves none without its final answer.
    """

    def __init__(
        self,
        settings: CascadeSettings,
        bus: BusSettings,
        sink: Sink,
        cascade: Cascade,
        live: LiveModels[Cascade],
        meter: StageMeter | None = None,
        resumer: Resumer | None = None,
        topics: Sequence[str] = (),
    ) -> None:
        """Serve ``cascade`` until ``live`` has another.

        Args:
            settings: of the worker.
            bus: where answers go.
            sink: takes them there.
            cascade: the one to begin with.
            live: the versions after it.
            meter: counts for it; by default one of its own.
            resumer: keeps the flows that wait; by default for the topics below.
            topics: plain names of all that it gets; by default what ``cascade`` needs.
        """
        self.settings, self.bus, self.sink = settings, bus, sink
        self.topics = tuple(topics) or input_topics(cascade)
        self.totals: Counter[str] = Counter()
        self.server = CascadeServer(settings, cascade)
        self.dead_letters = DeadLetters(STAGE, bus, sink)
        self.pressure = Pressure(settings.latency_target_ms, settings.max_lag_messages)
        self._publisher = Publisher(
            settings.name, self.server.probes, self.server.representations, bus.partitions
        )
        self._answers = topic_name(bus, PREDICTIONS_FLOW)
        self._live = live
        self._resumer = resumer or Resumer(settings.group, bus, sink, self.topics)
        self._late = self._new_labels()
        self._meter = meter or StageMeter(STAGE, "rows", detail=settings.name)
        self._arrived: list[tuple[Message, Arrived | ArrivedPayloads]] = []
        self._labels: list[tuple[int, str]] = []
        self._told: Counter[str] = Counter()
        self._gauges: set[str] = set()
        self._next_telemetry_ns = 0
        self._next_drift_s = 0.0
        self._eased = False
        self._tell_problems()
        _warm_up(len(cascade.card.tiers), settings.name, bus.partitions, self.topics)

    @property
    def meter(self) -> StageMeter:
        """What this agent counts about itself."""
        return self._meter

    @property
    def cascade(self) -> Cascade:
        """Return the cascade that serves."""
        return self.server.cascade

    def counts(self) -> Counter[str]:
        """Return all counters by name."""
        total = self.totals + self.server.counts + self._resumer.counts
        total["state_saved_bytes"] = self._resumer.written_bytes
        return total

    def on_message(self, message: Message) -> None:
        """Put rows or a label by, for ``on_drained``."""
        received_ns = time.time_ns()
        if not self.is_new(message):
            self.totals["messages_redelivered"] += 1
            return
        try:
            if not message.value:
                raise CodecError("an empty message")
            if message.topic == LABELS:
                self._take_label(decode("Label", message.value))
                return
            self._take_rows(message, message.value, received_ns)
        except CodecError as error:
            self._set_aside(message, str(error))

    def _take_rows(self, message: Message, data: bytes, received_ns: int) -> None:
        arrived: Arrived | ArrivedPayloads
        if message.topic == PAYLOADS:
            arrived = ArrivedPayloads(decode_payload_batch(data), message.partition, received_ns)
            representation = octets.REPRESENTATION
        else:
            arrived = Arrived(decode_feature_batch(data), message.partition, received_ns)
            representation = arrived.batch.representation
        self._put_by(message, arrived, representation)

    def wants(self) -> Sequence[str]:
        """Return the plain names of the topics whose messages it can use now."""
        return input_topics(self.cascade)

    def is_new(self, message: Message) -> bool:
        """Return whether a message has not been seen, and take note of it."""
        return self._resumer.is_new(message.topic, message.partition, message.offset)

    def on_rows(self, batch: FeatureBatch) -> None:
        """Put rows by that were made in this process, for ``on_drained``."""
        message = Message(f"features.{batch.representation}", batch.partition, -1, None, None)
        self._put_by(message, Arrived(batch, batch.partition, time.time_ns()), batch.representation)

    def _put_by(self, message: Message, arrived: Arrived | ArrivedPayloads, representation: str) -> None:
        self._meter.items_in += arrived.batch.rows
        self._meter.count(f"rows_in_{representation}", arrived.batch.rows)
        self._arrived.append((message, arrived))

    def _take_label(self, label: Mapping[str, str]) -> None:
        try:
            flow = parse_flow_id(label["flow_id"])
        except ValueError as error:
            raise CodecError(f"a label for no flow: {error}") from None
        self._labels.append((flow, label["label"]))

    def on_drained(self) -> None:
        """Answer the rows at hand and publish; then score by the labels at hand."""
        while (change := self._live.poll()) is not None:
            self._apply(change)
        arrived, self._arrived = self._arrived, []
        if arrived:
            try:
                self._publish(self.server.take([one for _, one in arrived]))
            except BusError:
                raise
            except Exception as error:  # a defect must cost these messages, not the worker
                log.exception("cascade %s", self.cascade.title)
                self._meter.drop("failed", sum(one.batch.rows for _, one in arrived))
                for message, one in arrived:
                    value = message.value or one.batch.encode()
                    self._set_aside(replace(message, value=value), f"{type(error).__name__}: {error}")
        labels, self._labels = self._labels, []
        self.totals["labels_received"] += len(labels)
        for flow, label in labels:
            self._score(flow, label)

    def on_idle(self) -> bool:
        """Return that nothing was left for later."""
        return False

    def _publish(self, said: Sequence[Said], version: str = "", classes: Sequence[str] = ()) -> None:
        """Publish answers: of the cascade that serves, or of another one."""
        if not said:
            return
        version, classes = version or self.cascade.card.version, classes or self.cascade.classes
        now_ns = time.time_ns()
        items: list[Item] = []
        for rows, final, at_once in said:
            items += self._publisher.items(rows, final, classes, version, now_ns)
            if final and at_once:
                latencies_ns = now_ns - rows["probe_time_ns"]
                self._meter.latency.record_many_ns(latencies_ns)
                self.pressure.on_answers(latencies_ns)
            if final and self._late.early:
                self._score_early(rows["flow_id"].tolist())
        self.sink.produce_items(self._answers, items)
        self._meter.items_out += len(items)
        self._meter.output_bytes += octets_of(items)

    def _apply(self, change: Change[Cascade]) -> None:
        """Go over to another version, tiers and thresholds together; or say why not."""
        problem, cascade = change.problem, change.model
        if cascade is not None:
            missing = sorted(set(input_topics(cascade)) - set(self.topics))
            problem = self.server.lacks(cascade)
            if missing:
                problem = f"it needs {', '.join(missing)}, which this worker does not read: start it anew"
        if cascade is None or problem:
            self.totals["cascades_refused"] += 1
            log.error(
                "cascade %s is refused, %s goes on serving: %s", change.title, self.cascade.title, problem
            )
        else:
            self._change(cascade)
        self._next_telemetry_ns = 0

    def _change(self, cascade: Cascade) -> None:
        before = self.cascade
        # Who waits gets its answer from the one that it began with.
        self._publish(self.server.change(cascade), before.card.version, before.classes)
        self._late = self._new_labels()
        self.totals["cascades_changed"] += 1
        cascade.ease(self.pressure.factor)
        log.info("cascade %s serves now, after %s", cascade.title, before.title)
        self._tell_problems()

    def _tell_problems(self) -> None:
        for number, problem in self.cascade.problems.items():
            name = self.cascade.card.tiers[number].name
            log.error("cascade %s goes without tier %s: %s", self.cascade.title, name, problem)

    def _new_labels(self) -> LateLabels:
        card = self.cascade.card
        names = [tier.name for tier in card.tiers]
        return LateLabels(names, card.classes, self.settings.score_window_labels, self.server.counts)

    def _score(self, flow: int, label: str) -> None:
        for table in self.server.tables.values():
            place = int(table.find(np.array([flow], np.uint64))[0])
            if place < 0:
                continue
            if table.is_scored(place) or flow in self._late.early:
                self.totals["labels_repeated"] += 1
            elif table.held(np.array([place]))[0] >= 0:
                self._late.keep(flow, label)
            else:
                self._late.score(label, table.said(place))
                table.score(place)
            return
        self.totals["labels_unknown_flow"] += 1

    def _score_early(self, flows: Sequence[int]) -> None:
        """Score flows that have their final answer now, where their label came before it."""
        for flow in self._late.early.keys() & set(flows):
            self._score(flow, self._late.take(flow))

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Give up what has waited long enough, follow the latency target, publish the costs when it is time."""
        self.on_drained()
        if not away:
            self._publish(self.server.due())
        self.sink.check()
        lag = sum(waiting.values())
        if self.pressure.look(time.monotonic(), lag):
            self._ease()
        now_ns = time.time_ns()
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + round(self.settings.telemetry_interval_s * 1e9)
            self._publish_telemetry(lag)

    def _ease(self) -> None:
        factor = self.pressure.factor
        self.cascade.ease(factor)
        if factor == 1.0:
            log.info("cascade %s escalates as tuned again", self.cascade.title)
        elif not self._eased:
            log.warning(
                "cascade %s escalates less: answers take longer than cascade.latency_target_ms, or messages pile up",
                self.cascade.title,
            )
        self._eased = factor < 1

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Take over the flows that wait from the workers before."""
        self.server.let_go()
        for number, waiting in self._resumer.resume(partitions).items():
            version = waiting.title.rpartition("/")[2]
            self._publish(self.server.restore(number, waiting), version, waiting.classes)

    def before_commit(self) -> Later:
        """Bring every answer made to the bus, and copy the flows that wait of partitions that have seen news.

        Flows that a copy does not hold are not answered again, so their answers must be there before it.
        """
        self.on_drained()
        bring(self.sink, self.bus)
        return partial(self._resumer.write, self._resumer.copies(self.server))

    def hand_over(self) -> None:
        """Leave the flows that wait to whoever gets the partitions next."""
        self.on_drained()
        # Timeouts may have answered flows since the last message, so all are saved.
        self._resumer.forget_saved()
        self._publish_telemetry(None)
        self.before_commit()()
        self.server.let_go()
        self._resumer.let_go()

    def _set_aside(self, message: Message, reason: str) -> None:
        self.totals["messages_set_aside"] += 1
        self.dead_letters.put(
            message.topic, message.partition, message.offset, message.key, message.value, reason
        )

    def _publish_telemetry(self, waiting: int | None) -> None:
        counts = self.counts()
        self._meter.count_up_to(counts)
        flows = counts["final"] - self._told["final"]
        values: dict[str, float] = {**self._late.gauges(), **self.server.drift.gauges}
        values["escalation_factor"] = self.pressure.factor
        values["flows_waiting"] = self.server.waiting
        for tuned, tier in zip(self.cascade.shares, self.cascade.card.tiers, strict=False):
            values[f"escalation_share.{tier.name}"] = tuned
        if flows > 0:
            first = f"escalated_{self.cascade.card.tiers[0].name}"
            values["share_escalated"] = (counts[first] - self._told[first]) / flows
        if self.pressure.latency_ms is not None:
            values["latency_p90_ms"] = self.pressure.latency_ms
        for name in self._gauges - values.keys():
            self._meter.gauge(name, None)
        for name, gauge in values.items():
            self._meter.gauge(name, gauge)
        self._gauges = set(values)
        self._told = counts
        self._meter.state_bytes = self.server.state_bytes
        self._meter.lag_records = waiting
        self._tell_drift()
        record = encode("CostTelemetry", self._meter.snapshot())
        self.sink.produce(topic_name(self.bus, TELEMETRY_COST), record, partition=0)

    def _tell_drift(self) -> None:
        signals = self.server.drift.signals
        if signals and time.monotonic() >= self._next_drift_s:
            self._next_drift_s = time.monotonic() + _DRIFT_EVERY_S
            more = f", and {len(signals) - 1} signals more" if len(signals) > 1 else ""
            log.warning("cascade %s: drift: %s%s", self.cascade.title, signals[-1], more)
            signals.clear()
