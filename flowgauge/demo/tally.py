"""What the demo has seen so far: flows, predictions against the truth, costs, and whether everything adds up."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from flowgauge.costs import PipelineCosts, StageCost
from schemas.features import FeatureBatch

LAST_SHOWN = 12
LATE_WINDOW = 200

Record = dict[str, Any]


@dataclass
class Score:
    """Predictions of one kind against the truth; those whose truth is not known yet are in neither count."""

    correct: int = 0
    wrong: int = 0
    unsure: int = 0
    """The model had no prediction yet, and the truth is known."""
    late: deque[bool] = field(default_factory=lambda: deque(maxlen=LATE_WINDOW))

    @property
    def accuracy(self) -> float | None:
        """Return the share of correct answers among answers, None without any."""
        answered = self.correct + self.wrong
        return self.correct / answered if answered else None

    @property
    def accuracy_late(self) -> float | None:
        """Return the same for the last answers alone: what the model has learned by now."""
        return sum(self.late) / len(self.late) if self.late else None

    def count(self, label: str | None, truth: str) -> None:
        """Count one prediction."""
        if label is None:
            self.unsure += 1
            return
        self.correct += label == truth
        self.wrong += label != truth
        self.late.append(label == truth)


class Tally:
    """Takes in what the watcher reads, in any order between topics."""

    def __init__(self) -> None:
        self.predictions = 0
        self.answers = 0
        """Predictions that name a class."""
        self.labels = 0
        self.rows: Counter[str] = Counter()
        """Feature rows by representation."""
        self.flows_begun = 0
        self.flows_ended = 0
        self.dead_letters: list[Record] = []
        self.scores: dict[tuple[str, int], Score] = {}
        """By (representation, depth); depth 0 stands for the end of the flow."""
        self.pipeline = PipelineCosts()
        self.last: deque[Record] = deque(maxlen=LAST_SHOWN)
        self.classes: Counter[str] = Counter()
        """True classes of the labelled flows."""
        self._truth: dict[str, str] = {}
        self._waiting: dict[str, list[Record]] = {}
        self._seen: set[str] = set()
        self.repeated = 0
        """Predictions that came a second time; their id tells, and they are not counted again."""

    @property
    def costs(self) -> dict[str, StageCost]:
        """Return what each stage has told of its costs."""
        return self.pipeline.stages

    def on_features(self, batch: FeatureBatch) -> None:
        """Count the rows of a feature batch."""
        self.rows[batch.representation] += batch.rows
        if batch.representation == "early":
            self.flows_begun += int((batch.columns["depth"] == 1).sum())
        elif batch.representation == "flow":
            self.flows_ended += batch.rows

    def on_prediction(self, record: Record) -> None:
        """Take a prediction; it is scored when its flow's label is there."""
        if record["prediction_id"] in self._seen:
            self.repeated += 1
            return
        self._seen.add(record["prediction_id"])
        self.predictions += 1
        self.answers += record["label"] is not None
        self.last.append(record)
        truth = self.truth(record)
        if truth is None:
            self._waiting.setdefault(record["flow_id"], []).append(record)
        else:
            self._score(record, truth)

    def on_label(self, record: Record) -> None:
        """Take the truth about a flow, and score what was predicted about it."""
        self.labels += 1
        flow_id, label = record["flow_id"], record["label"]
        if flow_id not in self._truth:
            self._truth[flow_id] = label
            self.classes[label] += 1
        for prediction in self._waiting.pop(flow_id, ()):
            self._score(prediction, self._truth[flow_id])

    def on_cost(self, record: Record) -> None:
        """Take a telemetry record."""
        self.pipeline.add(record)

    def on_dead_letter(self, record: Record) -> None:
        """Keep a dead letter: there should be none."""
        self.dead_letters.append(record)

    def truth(self, prediction: Record) -> str | None:
        """Return the true class of a prediction's flow, None while it is not known."""
        return self._truth.get(prediction["flow_id"])

    @property
    def unlabelled(self) -> int:
        """Return how many predictions are about flows that nobody labelled so far."""
        return sum(len(waiting) for waiting in self._waiting.values())

    def _score(self, prediction: Record, truth: str) -> None:
        ended = prediction["flow_end_reason"] != 0
        key = (prediction["representation"], 0 if ended else prediction["depth"])
        self.scores.setdefault(key, Score()).count(prediction["label"], truth)

    def overall(self) -> Score:
        """Return the scores of all depths as one."""
        total = Score()
        for score in self.scores.values():
            total.correct += score.correct
            total.wrong += score.wrong
            total.unsure += score.unsure
        return total
