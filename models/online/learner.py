"""The online learner without a bus: features in, predictions out; labels in, lessons learned and scored."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from models.online.classifier import OnlineClassifier
from models.online.classifiers import recipe
from models.online.config import OnlineSettings
from models.online.drift import DriftWatch
from models.online.records import Predictions, prediction_ids
from models.online.scores import ScoreBoard
from models.online.waiting import Flow, Row, WaitingFlows
from schemas.errors import CodecError
from schemas.features import FeatureBatch
from schemas.flow_key import parse_flow_id

MAX_LABEL_LENGTH = 200
_MAX_LAYOUTS = 64


class OnlineLearner:
    """Predicts on every feature row, and learns those whose flow gets a label in time.

    One classifier a representation, since their features differ. A row's prediction is made before the row is
    learned and is scored when the label comes (prequential). ``counts`` holds what happened, by name; always

    - ``rows_received`` = ``rows_repeated`` + ``rows_too_old`` + ``rows_over_limit`` + ``rows_learned`` +
      ``rows_class_limit`` + ``rows_memory_limit`` + ``rows_expired`` + ``rows_evicted`` + rows that wait now;
    - ``labels_received`` = ``labels_matched`` + ``labels_early`` + ``labels_late`` + ``labels_repeated`` +
      ``labels_conflicting``;
    - ``labels_early`` (before any features) + ``labels_late`` (the features are forgotten already) =
      ``labels_joined_later`` + ``labels_unknown_flow`` + ``labels_missed_flow`` + labels that wait now.
    """

    def __init__(self, settings: OnlineSettings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        plan = recipe(settings.classifier, settings.parameters, settings.seed)
        self.classifiers = {name: OnlineClassifier(plan) for name in settings.representations}
        self.scores = ScoreBoard(settings.score_window_labels)
        self.drift = DriftWatch(settings, self.counts) if settings.drift else None
        self.classes: set[str] = set()
        self._waiting = WaitingFlows(settings.label_wait_ns, settings.max_waiting_flows)
        self._layouts: dict[tuple[str, ...], tuple[str, ...]] = {}

    def on_features(
        self, batch: FeatureBatch, received_time_ns: int, clock: Callable[[], int] = time.time_ns
    ) -> Predictions | None:
        """Answer each row, then keep or learn the rows, as ``answer`` and ``keep`` do."""
        made = self.answer(batch, received_time_ns, clock)
        if made is not None:
            self.keep(made)
        return made

    def answer(
        self, batch: FeatureBatch, received_time_ns: int, clock: Callable[[], int] = time.time_ns
    ) -> Predictions | None:
        """Answer each row; None where no classifier reads their representation. ``keep`` must follow.

        Args:
            batch: rows of one of the settings' representations; of others they are counted and passed over.
            received_time_ns: wall clock when the message was taken up.
            clock: gives the wall clock in ns when the answers are there.
        """
        classifier = self.classifiers.get(batch.representation)
        if classifier is None:
            self.counts["rows_of_other_representations"] += batch.rows
            return None
        names = self._layout(batch.feature_names)
        version = classifier.version
        answers = classifier.predict(batch.columns["features"], names)
        if self.drift is not None:
            self.drift.on_rows(batch.representation, names, batch.columns["features"], answers)
        ids = prediction_ids(batch, self.settings.name)
        return Predictions(batch, ids, answers, self.settings.name, version, received_time_ns, clock())

    def on_label(self, record: Mapping[str, Any]) -> str:
        """Join a ``Label`` record with its flow; return what it was: matched, early, late, repeated, …

        Raises:
            CodecError: its flow id is none, or its label is empty or far too long.
        """
        flow_id, label = _checked(record)
        self.counts["labels_received"] += 1
        flow = self._waiting.get(flow_id)
        outcome = self._fate(flow, flow_id, label)
        self.counts[f"labels_{outcome}"] += 1
        if outcome == "matched" and flow is not None:
            flow.label = label
            for row in self._waiting.take(flow):
                self._learn(row, label)
        elif outcome in ("early", "late"):
            probe = record["probe"]
            heard_ns = self._waiting.watermark_ns(probe)
            since_ns = record["start_ns"] if heard_ns is None else max(heard_ns, record["start_ns"])
            flow = self._waiting.touch(flow_id, probe, since_ns)
            flow.label, flow.label_waits = label, outcome
            self._drop(self._waiting.shrink(), "evicted")
        return outcome

    def _fate(self, flow: Flow | None, flow_id: int, label: str) -> str:
        if flow is not None:
            known = flow.label
        elif self._waiting.was_forgotten(flow_id):
            known = self._waiting.forgotten_label(flow_id)
        else:
            return "early"
        if known is not None:
            return "repeated" if known == label else "conflicting"
        return "late" if flow is None else "matched"

    def keep(self, made: Predictions) -> None:
        """Remember each row answered for its label, or learn it at once where the label is known."""
        batch, ids = made.batch, made.ids
        names = self._layout(batch.feature_names)
        predicted = [label for label, _ in made.answers]
        representation, counts = batch.representation, self.counts
        by_depth = representation in self.settings.score_by_depth
        features = np.ascontiguousarray(batch.columns["features"], dtype=np.float32)
        width = features.shape[1] * features.itemsize
        raw = features.tobytes()
        ends_ns = batch.columns["end_ns"].tolist()
        counts["rows_received"] += batch.rows
        for i, (prediction_id, flow_id, depth) in enumerate(
            zip(ids.texts, ids.flows, ids.depths, strict=True)
        ):
            if self._waiting.is_too_old(batch.probe, ends_ns[i]):
                counts["rows_too_old"] += 1
                continue
            flow = self._waiting.touch(flow_id, batch.probe, ends_ns[i])
            if prediction_id in flow.rows:
                counts["rows_repeated"] += 1
                continue
            if len(flow.rows) >= self.settings.max_rows_per_flow:
                counts["rows_over_limit"] += 1
                continue
            if flow.label_waits is not None:
                flow.label_waits = None
                counts["labels_joined_later"] += 1
            group = f"{representation}@{depth}" if by_depth else representation
            row = Row(representation, names, group, raw[i * width : (i + 1) * width], predicted[i])
            self._waiting.keep(flow, prediction_id, row)
            if flow.label is not None:
                for waiting in self._waiting.take(flow):
                    self._learn(waiting, flow.label)
        if ends_ns:
            self._drop(self._waiting.advance(batch.probe, max(ends_ns)), "expired")
        self._drop(self._waiting.shrink(), "evicted")

    def _learn(self, row: Row, label: str) -> None:
        """Score the prediction made on a row, then learn the row."""
        self.scores.add(row.group, label, row.predicted)
        if self.drift is not None:
            self.drift.on_score(row.representation, row.predicted != label)
        classifier = self.classifiers[row.representation]
        if classifier.is_full(self._classifier_bytes):
            self.counts["rows_memory_limit"] += 1
            return
        if label not in self.classes:
            if len(self.classes) >= self.settings.max_classes:
                self.counts["rows_class_limit"] += 1
                return
            self.classes.add(label)
        features = np.frombuffer(row.features, dtype=np.float32)
        classifier.learn(features, row.names, label)
        self.counts["rows_learned"] += 1

    def _drop(self, flows: Iterable[Flow], why: str) -> None:
        for flow in flows:
            self.counts[f"flows_{why}"] += 1
            self.counts[f"rows_{why}"] += sum([row is not None for row in flow.rows.values()])
            if flow.label_waits is not None:
                ended = "labels_unknown_flow" if flow.label_waits == "early" else "labels_missed_flow"
                self.counts[ended] += 1

    def _layout(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return one tuple for equal names, so that waiting rows share it."""
        if names not in self._layouts and len(self._layouts) >= _MAX_LAYOUTS:
            self._layouts.clear()
        return self._layouts.setdefault(names, names)

    @property
    def _classifier_bytes(self) -> int:
        """Most memory of one classifier."""
        return self.settings.max_model_bytes // len(self.classifiers)

    @property
    def full(self) -> list[str]:
        """Return the representations whose classifiers learn no more, for want of memory."""
        return [name for name, c in self.classifiers.items() if c.is_full(self._classifier_bytes)]

    def adopt(self, settings: OnlineSettings) -> None:
        """Go on with other limits; what makes the model (see ``models.online.state.identity``) must be the same."""
        self.settings = settings
        self._waiting.wait_ns, self._waiting.max_flows = settings.label_wait_ns, settings.max_waiting_flows
        if not settings.drift:
            self.drift = None
        elif self.drift is None:
            self.drift = DriftWatch(settings, self.counts)

    @property
    def state_bytes(self) -> int:
        """Return about how much memory models and waiting rows take."""
        return self._waiting.state_bytes + sum(c.memory_bytes for c in self.classifiers.values())

    def summary(self) -> dict[str, Any]:
        """Return counts, scores by group, and each classifier's version and memory, as plain values."""
        return {
            "model": self.settings.name,
            "counts": dict(sorted(self.counts.items())),
            "flows_waiting": len(self._waiting),
            "rows_waiting": self._waiting.rows_waiting,
            "state_bytes": self.state_bytes,
            "classes": sorted(self.classes),
            "scores": self.scores.summary(),
            "classifiers": {
                name: {
                    "version": c.version,
                    "labels_learned": c.labels_learned,
                    "memory_bytes": c.memory_bytes,
                }
                for name, c in self.classifiers.items()
            },
        }


def _checked(record: Mapping[str, Any]) -> tuple[int, str]:
    """Return flow id and label of a label record; raises CodecError where they cannot be such."""
    try:
        flow_id = parse_flow_id(record["flow_id"])
    except ValueError as error:
        raise CodecError(f"a label for no flow: {error}") from error
    label = record["label"]
    if not 0 < len(label) <= MAX_LABEL_LENGTH:
        raise CodecError(f"a label of {len(label)} characters; 1 to {MAX_LABEL_LENGTH} are taken")
    return flow_id, label
