"""The online model's handler: feature batches and labels from the bus in, predictions out."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from models.online import observed, paths
from models.online.backlog import Source, positions, read_backlog
from models.online.config import OnlineSettings
from models.online.drift import prepare_tests
from models.online.keeper import StateKeeper
from models.online.learner import OnlineLearner
from models.online.records import Predictions
from models.online.state import Snapshot
from producers.bus import Item, Sink, bring, octets_of
from producers.config import BusSettings, topic_name
from producers.telemetry import StageMeter
from schemas import features, prediction_ids
from schemas.codec import decode, encode
from schemas.errors import BusError, CodecError
from schemas.features import FeatureBatch, decode_feature_batch
from schemas.flow_key import partitions_of
from schemas.predictions import warm_up_writer
from schemas.topics import LABELS, PACKETS, PREDICTIONS_FLOW, TELEMETRY_COST
from streams.dead_letters import DeadLetters
from streams.faust_app import Later, Message, nothing_later
from streams.handover import Position

log = logging.getLogger("flowgauge")

STAGE = "models"
CATCH_UP_S = 20.0
"""Most time that learning a crashed worker's last messages again may take, before the first new one."""
_MOST_LESSONS = 64
"""Most messages that wait to be learned from; a model may be so many behind where messages come without a pause."""
_DRIFT_EVERY_S = 60.0
"""Drift is told on the log no more often than that; telemetry has every signal."""


def input_topics(settings: OnlineSettings) -> tuple[str, ...]:
    """Return the plain names of the topics that the model reads: its features, and labels."""
    return (*(f"features.{name}" for name in settings.representations), LABELS)


def prediction_items(predictions: Predictions, partitions: int) -> list[Item]:
    """Return the messages of predictions, each with its flow's partition and id."""
    where = partitions_of(predictions.batch.columns["flow_id"], partitions)
    messages, keys = predictions.messages()
    return list(zip(messages, where, keys, strict=True))


def _warm_up(settings: OnlineSettings) -> None:
    """Compile and import now what would hold up the first messages."""
    features.warm_up()
    prediction_ids.warm_up()
    warm_up_writer()
    observed.warm_up()
    paths.warm_up()
    if settings.drift:
        prepare_tests()


class ModelAgent:
    """Handler of the feature topics and of ``labels``: one model for all partitions in hand.

    The model stays in the process at a rebalance; rows of partitions that went elsewhere wait until they expire.
    Its state on disk holds the offsets of the messages in it: what comes again after a restart is not learned
    twice, and what was committed after the last copy is learned again, unless the worker ended in order.
    """

    def __init__(
        self,
        settings: OnlineSettings,
        bus: BusSettings,
        sink: Sink,
        meter: StageMeter | None = None,
        rows_group: str = "",
    ) -> None:
        """Restore the model, or make a new one.

        Args:
            settings: of the worker.
            bus: where predictions go.
            sink: takes them there.
            meter: counts for it; by default one of its own.
            rows_group: where rows are made in this process, the consumer group of that; by default they come over
                the bus, in the model's own group.

        Raises:
            SettingsError: parameters that the classifier has not.
        """
        self.settings = settings
        self.bus = bus
        self.sink = sink
        # Before a state is looked for: a mistake in the settings is told at once.
        new = OnlineLearner(settings)
        self.keeper = StateKeeper(settings, bus)
        self._restored = self.keeper.restore()
        self.learner = new if self._restored is None else self._restored.learner
        _warm_up(settings)
        self.totals: Counter[str] = Counter()
        self.dead_letters = DeadLetters("models", bus, sink)
        self._answers = topic_name(bus, PREDICTIONS_FLOW)
        self._held: list[Item] = []
        """Predictions made of the messages at hand, which leave together."""
        self._lessons: deque[tuple[Message, Predictions | None]] = deque()
        """Labels and answered features that wait to be learned: that takes long, so predictions leave first."""
        self._meter = meter or StageMeter(STAGE, "rows", detail=settings.name)
        self._rows_group = rows_group
        self._made: dict[str, set[int]] = {}
        """Where rows are made in this process: the topics and partitions that they go to."""
        self._next_offset: dict[tuple[str, int], int] = {}
        # What a former process counted is on telemetry already.
        self._meter.know(self.learner.counts)
        self._next_telemetry_ns = 0
        self._next_drift_s = 0.0
        self._score_names: set[str] = set()
        self._full: set[str] = set()

    @property
    def meter(self) -> StageMeter:
        """What this agent counts about itself."""
        return self._meter

    def counts(self) -> Counter[str]:
        """Return all counters by name; those of the learner since the model began, in whatever process."""
        return self.totals + self.learner.counts + self.keeper.counts

    def on_message(self, message: Message) -> None:
        """Predict on a feature batch, or put a label by; raises BusError only."""
        received_ns = time.time_ns()
        source = (message.topic, message.partition)
        if message.offset < self._next_offset.get(source, 0):
            # Faust delivers a message twice around a rebalance; its predictions are on the bus already.
            self.totals["messages_redelivered"] += 1
            return
        self._next_offset[source] = message.offset + 1
        if message.topic == LABELS:
            self._lessons.append((message, None))
        else:
            self._try(message, partial(self._on_features, message, received_ns))

    def wants(self) -> Sequence[str]:
        """Return the plain names of the topics whose messages it can use."""
        return input_topics(self.settings)

    def is_new(self, _: Message) -> bool:
        """Return that rows are always news: those that come again are known by their prediction ids."""
        return True

    def on_rows(self, batch: FeatureBatch) -> None:
        """Predict on rows that were made in this process."""
        message = Message(f"features.{batch.representation}", batch.partition, -1, None, None)
        self._try(message, partial(self._answer, message, batch, time.time_ns()), batch)

    def on_drained(self) -> None:
        """Publish the predictions made of the messages at hand; raises BusError.

        What is to be learned of them waits until no message does, so that none waits for it; there is a bound.
        """
        if self._held:
            held, self._held = self._held, []
            self.sink.produce_items(self._answers, held)
        while len(self._lessons) > _MOST_LESSONS:
            self._learn_next()

    def on_idle(self) -> bool:
        """Learn from one message, and return whether there are more to learn from."""
        if self._lessons:
            self._learn_next()
        return bool(self._lessons)

    def _learn_next(self) -> None:
        message, made = self._lessons.popleft()
        self._try(message, partial(self._learn, message, made), made.batch if made else None)

    def _try(self, message: Message, work: Callable[[], None], rows: FeatureBatch | None = None) -> None:
        """Do some work on a message, or on rows in its place; set it aside where that cannot be done."""
        try:
            if not message.value and rows is None:
                raise CodecError("an empty message")
            work()
        except BusError:
            raise
        except CodecError as error:
            self._set_aside(message, str(error), rows)
        except Exception as error:  # a defect must cost one message, not the worker
            log.exception("%s [%d] offset %d", message.topic, message.partition, message.offset)
            self._set_aside(message, f"{type(error).__name__}: {error}", rows)

    def _learn(self, message: Message, made: Predictions | None) -> None:
        """Learn from a label, or keep the rows of a message of features for theirs."""
        if made is None:
            self.learner.on_label(decode("Label", message.value or b""))
        else:
            self.learner.keep(made)

    def on_tick(self, waiting: Mapping[tuple[str, int], int], *, away: bool = False) -> None:
        """Publish the costs when it is time."""
        self.sink.check()
        self.keeper.poll()
        now_ns = time.time_ns()
        if now_ns >= self._next_telemetry_ns:
            self._next_telemetry_ns = now_ns + round(self.settings.telemetry_interval_s * 1e9)
            self._publish_telemetry(sum(waiting.values()))

    def on_assigned(self, partitions: Mapping[str, set[int]]) -> None:
        """Begin anew with offsets; what comes again is known by its prediction id too."""
        self._next_offset.clear()
        if not self.keeper.is_on:
            return
        places = self._places(partitions)
        # A copy of the state tells of every partition what is in it, also where there was no message so far:
        # what comes there before the worker dies has to be learned again.
        self._next_offset.update({source: max(0, place.committed) for source, place in places.items()})
        if self._restored is not None:
            snapshot, self._restored = self._restored, None
            self._resume(snapshot, places)

    def _places(self, partitions: Mapping[str, set[int]]) -> dict[Source, Position]:
        """Return from where the group goes on in each source.

        Where rows are made in this process it has all of them that are on the bus: it made them, or a worker before.
        """
        if not self._rows_group:
            return positions(self.bus, self.settings.group, partitions)
        self._made = {
            topic: partitions.get(PACKETS, set()) for topic in input_topics(self.settings) if topic != LABELS
        }
        places = positions(self.bus, self._rows_group, {LABELS: partitions.get(LABELS, set())})
        return places | {source: Position(end, end) for source, end in self._ends_of_rows().items()}

    def _ends_of_rows(self) -> dict[Source, int]:
        return {
            source: place.end for source, place in positions(self.bus, self._rows_group, self._made).items()
        }

    def _resume(self, snapshot: Snapshot, places: Mapping[Source, Position]) -> None:
        """Go on from a state: learn what its messages lack of those committed, and skip what it has beyond."""
        spans: dict[Source, tuple[int, int]] = {}
        for source, place in places.items():
            kept = snapshot.next_offset.get(source)
            if kept is None or (kept == 0 and place.committed < 0):
                continue
            if place.committed < 0 or kept > place.end:
                self.totals["offsets_of_other_topics"] += 1
                continue
            self._next_offset[source] = kept
            if kept < place.committed and not snapshot.handed_over:
                spans[source] = (kept, place.committed)
        if spans:
            self._catch_up(spans)

    def _catch_up(self, spans: Mapping[Source, tuple[int, int]]) -> None:
        learned = 0
        for message in read_backlog(self.bus, self.settings.group, spans, CATCH_UP_S):
            self._next_offset[message.topic, message.partition] = message.offset + 1
            learned += 1
            # Its predictions are on the bus, and it is among the dead letters if it belongs there.
            with suppress(CodecError):
                self._relearn(message)
        self.totals["messages_caught_up"] += learned
        missed = sum(end - self._next_offset[source] for source, (_, end) in spans.items())
        self.totals["messages_not_caught_up"] += max(0, missed)
        log.info(
            "model %s: %d messages learned again that came after its last copy", self.settings.name, learned
        )

    def _relearn(self, message: Message) -> None:
        try:
            if message.topic == LABELS:
                self.learner.on_label(decode("Label", message.value or b""))
            else:
                self.learner.on_features(decode_feature_batch(message.value or b""), time.time_ns())
        except CodecError:
            raise
        except Exception:
            log.exception("%s [%d] offset %d", message.topic, message.partition, message.offset)

    def before_commit(self) -> Later:
        """Return once every prediction is on the bus; begin a copy of the state when it is time.

        Every message in the copy has its predictions on the bus. It goes to this machine's disk, and no commit waits
        for it.
        """
        self._bring()
        if self.keeper.is_due():
            self.keeper.save(self._snapshot(handed_over=False), wait=False)
        return nothing_later

    def _bring(self) -> None:
        """Bring every prediction to the bus, and learn what is to be learned of the messages so far."""
        self.on_drained()
        while self.on_idle():
            pass
        bring(self.sink, self.bus)

    def hand_over(self) -> None:
        """Tell the last costs and save the state: it is this worker's own, no other takes it over."""
        self._publish_telemetry(None)
        self._bring()
        self.keeper.save(self._snapshot(handed_over=True), wait=True)
        self._next_offset.clear()

    def _snapshot(self, *, handed_over: bool) -> Snapshot:
        """Return the state as it is; of rows made here it holds all that are on the bus, since they were flushed."""
        if self._made:
            self._next_offset.update(self._ends_of_rows())
        return Snapshot(self.learner, dict(self._next_offset), handed_over)

    def _on_features(self, message: Message, received_ns: int) -> None:
        self._answer(message, decode_feature_batch(message.value or b""), received_ns)

    def _answer(self, message: Message, batch: FeatureBatch, received_ns: int) -> None:
        made = 0
        try:
            predictions = self.learner.answer(batch, received_ns)
            if predictions is not None:
                self._lessons.append((message, predictions))
                items = prediction_items(predictions, self.bus.partitions)
                self._held += items
                self._meter.output_bytes += octets_of(items)
                made = len(items)
        finally:
            # Rows in are rows out and rows dropped, also where the model fails in the middle.
            self._meter.items_in += batch.rows
            self._meter.count(f"rows_in_{batch.representation}", batch.rows)
            self._meter.items_out += made
            other = batch.representation not in self.learner.classifiers
            self._meter.drop("other_representation" if other else "failed", batch.rows - made)
        self._meter.record_ns(time.time_ns() - batch.probe_time_ns, made)

    def _set_aside(self, message: Message, reason: str, rows: FeatureBatch | None) -> None:
        self.totals["messages_set_aside"] += 1
        value = message.value or (rows.encode() if rows is not None else None)
        self.dead_letters.put(message.topic, message.partition, message.offset, message.key, value, reason)

    def _publish_telemetry(self, waiting: int | None) -> None:
        self._meter.count_up_to(self.counts())
        self._meter.state_bytes = self.learner.state_bytes
        self._tell_values()
        self._tell_drift()
        self._meter.lag_records = waiting
        record = encode("CostTelemetry", self._meter.snapshot())
        self.sink.produce(topic_name(self.bus, TELEMETRY_COST), record, partition=0)

    def _tell_values(self) -> None:
        """Bring the meter's gauges up to the scores of late, and to what the state on disk takes."""
        values = self.learner.scores.gauges(self.settings.score_classes)
        for name in self._score_names - values.keys():
            self._meter.gauge(name, None)
        self._score_names = set(values)
        values["model_bytes"] = sum(c.memory_bytes for c in self.learner.classifiers.values())
        values["state_file_bytes"], values["state_save_s"] = self.keeper.file_bytes, self.keeper.save_s
        for name, value in values.items():
            self._meter.gauge(name, value)

    def _tell_drift(self) -> None:
        """Put on the log what is new, drift no more often than once a minute."""
        for name in set(self.learner.full) - self._full:
            self._full.add(name)
            log.warning(
                "model %s: the classifier of %s has its share of models.max_model_bytes and learns no more",
                self.settings.name,
                name,
            )
        signals = self.learner.drift.signals if self.learner.drift is not None else None
        if signals and time.monotonic() >= self._next_drift_s:
            self._next_drift_s = time.monotonic() + _DRIFT_EVERY_S
            more = f", and {len(signals) - 1} signals more" if len(signals) > 1 else ""
            log.warning("model %s: drift: %s%s", self.settings.name, signals[-1], more)
            signals.clear()
