"""The flows agent: packet batches from the bus into the flow table, feature batches back out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from producers.bus import Item, Sink, bring
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas.codec import encode
from schemas.errors import CodecError
from schemas.features import FeatureBatch
from schemas.flow_key import parse_flow_id, partition_of
from schemas.packets import PacketBatch, decode_packet_batch
from schemas.topics import FEATURES_PATH, PACKETS, TELEMETRY_COST
from streams import checkpoint
from streams.config import StreamsSettings
from streams.dead_letters import DeadLetters
from streams.faust_app import Later, Message
from streams.gather import Gathered
from streams.handover import SLOTS, Position, State, StateReader, write_state
from streams.live_prices import LivePrices
from streams.partition import Partition
from streams.plan import Plan
from streams.probe_flows import warm_up
from streams.probe_watch import ProbeWatch
from streams.services.live_rules import LiveRules
from streams.services.rules import RuleBook

log = logging.getLogger("flowgauge")


class FlowsAgent:
    """Handler of the ``packets`` topic: one ``Partition`` per assigned partition."""

    def __init__(
        self,
        settings: StreamsSettings,
        bus: BusSettings,
        sink: Sink,
        meter: StageMeter | None = None,
        on_rows: Callable[[Sequence[FeatureBatch]], None] | None = None,
        states: Sink | None = None,
    ) -> None:
        """Compile the kernel.

        Args:
            settings: what is made of packets.
            bus: where rows go.
            sink: takes them there.
            meter: counts for it; by default one of its own.
            on_rows: gets all rows before the bus does.
            states: takes copies of the flow state to the bus, beside ``sink`` and in another thread; by default
                ``sink`` does, which is for who calls all in one thread.

        Raises:
            SettingsError: an unknown feature.
        """
        self.plan = Plan(settings)
        warm_up(self.plan)
        self.bus = bus
        self.sink = sink
        self._states = states or sink
        self._written_bytes = 0
        self._on_rows = on_rows
        self.partitions: dict[int, Partition] = {}
        self.next_offset: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        """Offset of the state last written, by partition."""
        self._slots: dict[int, int] = {}
        """Where the next state goes."""
        self.totals: Counter[str] = Counter()
        """Counts of partitions that were handed over, and of state restored or lost."""
        self._gathered = Gathered(self.plan.max_rows)
        self._paths: list[dict[str, Any]] = []
        """``FlowPath`` records that leave with the rows they were made of."""
        self.dead_letters = DeadLetters("flows", bus, sink)
        self._meter = meter or StageMeter("flows", "packets")
        self._prices = LivePrices(self.plan)
        self._watch = ProbeWatch(round(settings.probe_silence_s * 1e9))
        self._rules = LiveRules()
        self._next_telemetry_ns = 0
        self._told_missing: set[str] = set()

    @property
    def meter(self) -> StageMeter:
        """What this agent counts about itself."""
        return self._meter

    def counts(self) -> Counter[str]:
        """Return all counters by name since the worker started."""
        total = self.totals + self._watch.counters
        total["state_saved_bytes"] = self._written_bytes
        for partition in self.partitions.values():
            total.update(partition.counts())
        return total

    def on_message(self, message: Message) -> None:
        """Fold a packet batch in; the rows it makes due leave at ``on_drained``."""
        received_ns = time.time_ns()
        if message.offset < self.next_offset.get(message.partition, 0):
            # What came after the last commit comes again when a worker goes on from a state that has seen it.
            self.totals["messages_redelivered"] += 1
            return
        self.next_offset[message.partition] = message.offset + 1
        try:
            batch = decode_packet_batch(message.value or b"")
        except CodecError as error:
            self._set_aside(message, str(error))
            return
        self._meter.items_in += batch.packets
        self._watch.heard(batch, time.monotonic_ns())
        partition = self._partition(message.partition)
        before = partition.counters["packets_duplicate"]
        used, began_ns = partition.packets_by_service(batch.probe), time.thread_time_ns()
        try:
            for rows in partition.apply(batch, received_ns, time.monotonic_ns()):
                self._gathered.add(rows)
                self._paths += partition.joined(rows)
        except Exception as error:  # a defect must cost one message, not the worker
            log.exception("%s [%d] offset %d", message.topic, message.partition, message.offset)
            self.plan.filled[:] = 0
            self._meter.drop("failed", batch.packets)
            self._set_aside(message, f"{type(error).__name__}: {error}")
            return
        cpu_ns = time.thread_time_ns() - began_ns
        self._tell_missing(batch)
        duplicate = partition.counters["packets_duplicate"] - before
        self._prices.folded(cpu_ns, used, partition.packets_by_service(batch.probe))
        self._meter.drop("duplicate", duplicate)
        self._meter.items_out += batch.packets - duplicate

    def on_drained(self) -> None:
        """Produce the rows made of the messages at hand; raises BusError."""
        self._produce(self._gathered.take())
        self._produce_paths()

    def on_idle(self) -> bool:
        """Return that nothing was left for later."""
        return False

    def _tell_missing(self, batch: PacketBatch) -> None:
        """Say once per probe that it does not send what the chosen features need."""
        missing = self.plan.missing(batch)
        if missing and batch.probe not in self._told_missing:
            self._told_missing.add(batch.probe)
            log.warning(
                "probe %s does not send the packet columns %s, so the features that need them give 0; "
                "packets.columns in its settings adds them",
                batch.probe,
                " and ".join(missing),
            )

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Close what silence makes due, in partitions where nothing waits; publish the costs."""
        now_ns = time.time_ns()
        for number, partition in self.partitions.items():
            if away:
                partition.restart_silence(time.monotonic_ns())
            elif waiting.get((PACKETS, number), 0) == 0:
                for rows in partition.tick(now_ns, time.monotonic_ns()):
                    self._produce([rows])
                    self._paths += partition.joined(rows)
        self._produce_paths()
        self.sink.check()
        if away:
            self._watch.restart_silence(time.monotonic_ns())
        self._watch.look(time.monotonic_ns(), behind=any(waiting.values()))
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + round(self.plan.settings.telemetry_interval_s * 1e9)
            self._publish_telemetry(sum(waiting.values()))

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Take over the state that former workers left."""
        self._let_go()
        mine = partitions.get(PACKETS, set())
        with StateReader(self.bus, self.plan.settings.group) as reader:
            for number, position in reader.positions(topic_name(self.bus, PACKETS), mine).items():
                state = reader.read(number, position.committed)
                self.partitions[number] = self._restore(number, position, state)

    def before_commit(self) -> Later:
        """Bring every row made to the bus, and copy the state of every partition that has seen something new.

        What a state has seen is not made again, so its rows must be there before it.
        """
        self.on_drained()
        bring(self.sink, self.bus)
        unsaved = [n for n, offset in self.next_offset.items() if self._saved.get(n) != offset]
        return partial(self._write, [self._copy(number) for number in unsaved])

    def hand_over(self) -> None:
        """Leave the state of every partition on ``flows.state``, then let go of it."""
        # Silence may have closed flows since the last message, so all are saved.
        self._saved.clear()
        self._publish_telemetry(None)
        self.before_commit()()
        self._let_go()

    def rules_without_match(self) -> list[str]:
        """Return the rules of services that matched nothing in the partitions let go of since the worker started."""
        return self._rules.without_match()

    def _books(self) -> Iterator[tuple[str, RuleBook]]:
        for partition in self.partitions.values():
            for name, probe in partition.probes.items():
                yield name, probe.flows.book

    def _let_go(self) -> None:
        if self.plan.services:
            self._rules.let_go(self._books())
        for partition in self.partitions.values():
            self.totals.update(partition.counts())
        for held in (self.partitions, self.next_offset, self._saved, self._slots):
            held.clear()

    def _copy(self, number: int) -> tuple[int, State, checkpoint.Copy]:
        """Return (partition, state without its body, what makes the body)."""
        slot, offset = self._slots.get(number, 0), self.next_offset[number]
        self._slots[number] = (slot + 1) % SLOTS
        self._saved[number] = offset
        copy = checkpoint.Copy(self._partition(number))
        return number, State(offset, slot, self.plan.layout, b""), copy

    def _write(self, copies: Sequence[tuple[int, State, checkpoint.Copy]]) -> None:
        for number, state, copy in copies:
            body = copy.compressed()
            write_state(self._states, self.bus, self.plan.settings.group, number, state._replace(body=body))
            self._written_bytes += len(body)
        if copies:
            bring(self._states, self.bus)

    def _partition(self, number: int) -> Partition:
        partition = self.partitions.get(number)
        if partition is None:
            partition = self.partitions[number] = Partition(self.plan, number)
        return partition

    def _restore(self, number: int, position: Position, state: State | None) -> Partition:
        """Return the partition as its last worker left it, or a new one where there is nothing to go on from."""
        where = f"{topic_name(self.bus, PACKETS)} [{number}]"
        if state is None or state.offset < position.committed:
            if position.committed > 0:
                found = "none" if state is None else f"one up to {state.offset:,}"
                self.totals["states_unusable" if state is None else "states_outdated"] += 1
                log.error(
                    "%s: no whole flow state up to offset %d, but %s; its open flows are lost",
                    where,
                    position.committed,
                    found,
                )
            return Partition(self.plan, number)
        self._slots[number] = (state.slot + 1) % SLOTS
        try:
            if state.offset > position.end:
                raise CodecError(f"flow state of {where} is of a topic that is gone")
            partition = checkpoint.load(state.body, self.plan, number, time.monotonic_ns())
        except CodecError as error:
            self.totals["states_unusable"] += 1
            log.error("%s; its open flows are lost", error)
            return Partition(self.plan, number)
        self.next_offset[number] = self._saved[number] = state.offset
        self.totals["states_restored"] += 1
        for name, probe in partition.probes.items():
            self._watch.known(name, max(probe.sequences, default=0), probe.ended, time.monotonic_ns())
        # What the former worker counted is in its own totals.
        partition.forget_counts()
        return partition

    def _produce(self, batches: Iterable[FeatureBatch]) -> None:
        if self._on_rows is not None:
            batches = list(batches)
            self._on_rows(batches)
        for batch in batches:
            now_ns = time.time_ns()
            value = batch.encode(flows_sent_time_ns=now_ns)
            self.sink.produce(
                topic_name(self.bus, f"features.{batch.representation}"),
                value,
                partition=batch.partition,
                items=batch.rows,
            )
            self._meter.output_bytes += len(value)
            self._prices.produced(batch.representation, batch.rows, len(value))
            self._meter.record_ns(now_ns - batch.probe_time_ns, batch.rows)

    def _produce_paths(self) -> None:
        records, self._paths = self._paths, []
        items: list[Item] = []
        for record in records:
            partition = int(partition_of(np.uint64(parse_flow_id(record["flow_id"])), self.bus.partitions))
            items.append((encode("FlowPath", record), partition, record["flow_id"]))
            self._meter.output_bytes += len(items[-1][0])
        if items:
            self.sink.produce_items(topic_name(self.bus, FEATURES_PATH), items)

    def _set_aside(self, message: Message, reason: str) -> None:
        self.totals["messages_set_aside"] += 1
        self.dead_letters.put(
            message.topic, message.partition, message.offset, message.key, message.value, reason
        )

    def _publish_telemetry(self, waiting: int | None) -> None:
        self._meter.count_up_to(self.counts())
        self._meter.state_bytes = sum(p.state_bytes for p in self.partitions.values())
        self._meter.lag_records = waiting
        self._prices.tell(self._meter.gauge)
        self._watch.tell(self._meter.gauge, time.monotonic_ns())
        if self.plan.services:
            self._rules.tell(self._books(), self._meter.gauge)
        record = encode("CostTelemetry", self._meter.snapshot())
        self.sink.produce(topic_name(self.bus, TELEMETRY_COST), record, partition=0)
