"""The packet model's handler: payload batches from the bus in, a prediction for each packet and flow out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.packet.config import PacketModelSettings
from models.packet.live import Change, LiveModels
from models.packet.records import Rows, Timing, warm_up_messages
from models.packet.rows import last_packets
from models.packet.runtime import PacketModel
from models.packet.votes import FlowVotes, warm_up
from producers.bus import Item, Sink, bring, octets_of
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas.codec import decode, encode
from schemas.errors import CodecError, FlowgaugeError
from schemas.flow_key import parse_flow_id, partitions_of
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS, PayloadBatch, decode_payload_batch
from schemas.topics import LABELS, PAYLOADS, PREDICTIONS_FLOW, PREDICTIONS_PACKET, TELEMETRY_COST
from streams.dead_letters import DeadLetters
from streams.faust_app import Later, Message, nothing_later

log = logging.getLogger("flowgauge")

STAGE = "packet-models"
INPUT_TOPICS = (PAYLOADS, LABELS)

Schedule = Callable[[float, Callable[[], None]], object]
"""Calls something after some seconds, on the worker's event loop."""


@dataclass(frozen=True)
class _Pending:
    """A payload batch that waits for its turn."""

    message: Message
    batch: PayloadBatch
    received_ns: int


def on_event_loop(delay_s: float, call: Callable[[], None]) -> object:
    """Call something later, on the loop that runs the handler."""
    return asyncio.get_running_loop().call_later(delay_s, call)


class PacketModelAgent:
    """Handler of ``payloads`` and ``labels``: one model for all partitions in hand.

    Packets wait for others to share a run of the model: until as many wait as a run takes best, nothing more is
    on its way, or the latency budget is used up. Offsets are committed behind what has been answered only.
    """

    def __init__(
        self,
        settings: PacketModelSettings,
        bus: BusSettings,
        sink: Sink,
        model: PacketModel,
        live: LiveModels[PacketModel],
        schedule: Schedule = on_event_loop,
    ) -> None:
        """Serve ``model`` until ``live`` has another."""
        warm_up()
        warm_up_messages()
        self.settings, self.bus, self.sink, self.model = settings, bus, sink, model
        self.totals: Counter[str] = Counter()
        self.dead_letters = DeadLetters(STAGE, bus, sink)
        self.votes = FlowVotes(settings.max_flows, settings.flow_idle_s)
        self._live, self._schedule = live, schedule
        self._meter = StageMeter(STAGE, "packets", detail=settings.name)
        self._pending: list[_Pending] = []
        self._pending_rows = 0
        self._timer_set = False
        self._failure: FlowgaugeError | None = None
        self._waiting: dict[int, int] = {}
        self._vectors = np.empty((0, FIRST_OCTETS), np.uint8)
        self._next_offset: dict[tuple[str, int], int] = {}
        self._next_sequence: dict[tuple[str, int, int], int] = {}
        self._next_telemetry_ns = 0

    @property
    def meter(self) -> StageMeter:
        """What this agent counts about itself."""
        return self._meter

    def counts(self) -> Counter[str]:
        """Return all counters by name."""
        return self.totals + Counter(flows_evicted=self.votes.evicted)

    def on_message(self, message: Message) -> None:
        """Take a payload batch or a label; raises FlowgaugeError only where the worker cannot go on."""
        self._raise_failure()
        received_ns = time.time_ns()
        source = (message.topic, message.partition)
        if message.offset < self._next_offset.get(source, 0):
            # Faust delivers a message twice around a rebalance; its predictions are on the bus already.
            self.totals["messages_redelivered"] += 1
            return
        self._next_offset[source] = message.offset + 1
        try:
            if not message.value:
                raise CodecError("an empty message")
            if message.topic == LABELS:
                self._on_label(decode("Label", message.value))
                return
            batch = decode_payload_batch(message.value)
        except CodecError as error:
            self._set_aside(message, str(error))
            return
        finally:
            if message.topic == PAYLOADS:
                self._waiting[message.partition] = message.waiting
        self._take(_Pending(message, batch, received_ns))

    def on_drained(self) -> None:
        """Wait on: packets are answered when there are enough, or when the first has waited for its budget."""

    def _take(self, pending: _Pending) -> None:
        batch = pending.batch
        self._follow_sequence(batch)
        self._meter.items_in += batch.rows
        if batch.rows:
            self._pending.append(pending)
            self._pending_rows += batch.rows
        if self._pending_rows >= self.model.batch_rows or not any(self._waiting.values()):
            self.answer()
        elif self._pending and not self._timer_set:
            self._timer_set = True
            self._schedule(self.settings.latency_budget_ms / 1e3, self._budget_is_used_up)

    def _follow_sequence(self, batch: PayloadBatch) -> None:
        """Count what a probe sent and what did not come; a worker that begins in the middle misses nothing."""
        place = (batch.probe, batch.epoch, batch.partition)
        expected = self._next_sequence.pop(place, batch.sequence)
        if batch.sequence > expected:
            self.totals["batches_missing"] += batch.sequence - expected
        if not batch.end_of_stream:
            self._next_sequence[place] = max(expected, batch.sequence + 1)

    def _budget_is_used_up(self) -> None:
        self._timer_set = False
        try:
            self.answer()
        except FlowgaugeError as error:  # nobody above would see it: the next call of the handler raises it
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def answer(self) -> None:
        """Answer all packets that wait, a few messages at a time."""
        while (change := self._live.poll()) is not None:
            self._apply(change)
        pending, self._pending, self._pending_rows = self._pending, [], 0
        group: list[_Pending] = []
        rows = 0
        for one in pending:
            group.append(one)
            rows += one.batch.rows
            if rows >= self.model.batch_rows:
                self._answer(group)
                group, rows = [], 0
        if group:
            self._answer(group)

    def _apply(self, change: Change[PacketModel]) -> None:
        """Go over to a new version, between two runs; or say why not."""
        if change.model is None:
            self.totals["models_refused"] += 1
            log.error(
                "model %s is refused, %s goes on serving: %s",
                change.title,
                self.model.card.title,
                change.problem,
            )
        else:
            before, self.model = self.model, change.model
            self.totals["models_changed"] += 1
            if before.classes != self.model.classes:
                self.votes.clear()
            log.info("model %s serves now, after %s", change.title, before.card.title)
        self._next_telemetry_ns = 0

    def _answer(self, group: list[_Pending]) -> None:
        begun_ns = time.time_ns()
        rows = sum(one.batch.rows for one in group)
        try:
            probabilities = self.model.predict(self._fill(group, rows))
        except Exception as error:  # what fails costs these messages, not the worker
            log.exception("model %s failed", self.model.card.title)
            self._meter.drop("failed", rows)
            for one in group:
                self._set_aside(one.message, f"the model failed: {type(error).__name__}: {error}")
            return
        at = 0
        items: list[Item] = []
        votes: list[Item] = []
        made = []
        for one in group:
            made.append(self._take_down(one, probabilities[at : at + one.batch.rows], begun_ns, items, votes))
            at += one.batch.rows
        # A call gives the interpreter away, so there is one for all of them.
        for topic, found in ((PREDICTIONS_PACKET, items), (PREDICTIONS_FLOW, votes)):
            if found:
                self.sink.produce_items(topic_name(self.bus, topic), found)
                self._meter.output_bytes += octets_of(found)
        for one, count in zip(group, made, strict=True):
            self._meter.record_ns(time.time_ns() - one.batch.sent_time_ns, count)

    def _fill(self, group: list[_Pending], rows: int) -> NDArray[np.uint8]:
        if rows > len(self._vectors):
            self._vectors = np.empty((rows, FIRST_OCTETS), np.uint8)
        at = 0
        for one in group:
            out = self._vectors[at : at + one.batch.rows]
            one.batch.vectors(out)
            if one.batch.masked_octets < MASKED_OCTETS:
                # Somebody else's probe: the model has not learned from ports, so it does not see any.
                out[:, :MASKED_OCTETS] = 0
            at += one.batch.rows
        return self._vectors[:rows]

    def _take_down(
        self,
        one: _Pending,
        probabilities: NDArray[np.float32],
        begun_ns: int,
        items: list[Item],
        votes: list[Item],
    ) -> int:
        """Add the messages that answer the packets of a payload batch, and those of its flows.

        Return how many packets are answered: all, or none where that fails.
        """
        card = self.model.card
        timing = Timing(one.received_ns, begun_ns, time.time_ns())
        try:
            rows = Rows(
                one.batch, (self.settings.name, card.version), self.model.classes, probabilities, timing
            )
            flow_index = one.batch.columns["flow_index"].tolist()
            partitions = partitions_of(one.batch.columns["flow_id"], self.bus.partitions)
            messages, keys = rows.packet_messages(self.settings.probabilities)
            made = list(zip(messages, [partitions[flow] for flow in flow_index], keys, strict=True))
            votes += self._votes(rows, partitions) if self.settings.votes else ()
        except Exception as error:  # a defect must cost one message, not the worker
            log.exception("%s [%d] offset %d", one.message.topic, one.message.partition, one.message.offset)
            self._meter.drop("failed", one.batch.rows)
            self._set_aside(one.message, f"{type(error).__name__}: {error}")
            return 0
        items += made
        self._meter.items_out += len(made)
        return len(made)

    def _votes(self, rows: Rows, partitions: list[int]) -> list[Item]:
        """Return what each flow of a batch is, by its packets up to here; ``partitions``: of the flows.

        Once for each flow and message: messages are the same when they come again, runs of the model are not.
        """
        columns = rows.batch.columns
        last, place = last_packets(columns["flow_index"], rows.batch.flows)
        flows = columns["flow_index"][last]
        flow_ids = columns["flow_id"][flows].tolist()
        said = self.votes.add(flow_ids, rows.probabilities, place, time.monotonic())
        messages, keys = rows.vote_messages(last, *said)
        self.totals["votes"] += len(messages)
        return list(zip(messages, [partitions[flow] for flow in flows.tolist()], keys, strict=True))

    def _on_label(self, label: Mapping[str, str]) -> None:
        """Score what the packets of a flow say together, when its label comes, once for each flow."""
        try:
            flow_id = parse_flow_id(label["flow_id"])
        except ValueError as error:
            raise CodecError(f"a label for no flow: {error}") from None
        self.totals["labels_received"] += 1
        said = self.votes.take_for_score(flow_id)
        if said is not None:
            right = self.model.classes[said] == label["label"]
            self.totals["votes_right" if right else "votes_wrong"] += 1

    def on_idle(self) -> bool:
        """Return that nothing was left for later."""
        return False

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Answer what waits, forget idle flows, publish the costs when it is time."""
        self._raise_failure()
        self._waiting = {p: count for (topic, p), count in waiting.items() if topic == PAYLOADS}
        self.answer()
        self.sink.check()
        self.votes.forget_idle(time.monotonic())
        now_ns = time.time_ns()
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + round(self.settings.telemetry_interval_s * 1e9)
            self._publish_telemetry(sum(waiting.values()))

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Begin anew with offsets; what comes again overwrites what was said, by its id."""
        self._forget_places()

    def _forget_places(self) -> None:
        self._next_offset.clear()
        self._next_sequence.clear()
        self._waiting.clear()

    def before_commit(self) -> Later:
        """Return once every prediction of the messages so far is on the bus; there is nothing to copy."""
        self._raise_failure()
        self.answer()
        bring(self.sink, self.bus)
        return nothing_later

    def hand_over(self) -> None:
        """Answer what waits and tell the last costs. Sums of flows stay: they are this worker's own."""
        self.answer()
        self._publish_telemetry(None)
        self.before_commit()
        self._forget_places()

    def _set_aside(self, message: Message, reason: str) -> None:
        self.totals["messages_set_aside"] += 1
        self.dead_letters.put(
            message.topic, message.partition, message.offset, message.key, message.value, reason
        )

    def _publish_telemetry(self, waiting: int | None) -> None:
        counts = self.counts()
        self._meter.count_up_to(counts)
        self._meter.state_bytes = self.votes.state_bytes
        self._meter.gauge("model_batch_rows", self.model.batch_rows)
        self._meter.gauge("model_ns_per_packet", self.model.row_ns)
        if scored := counts["votes_right"] + counts["votes_wrong"]:
            self._meter.gauge("vote_accuracy", counts["votes_right"] / scored)
        self._meter.lag_records = waiting
        record = encode("CostTelemetry", self._meter.snapshot())
        self.sink.produce(topic_name(self.bus, TELEMETRY_COST), record, partition=0)
