"""Whether what a cascade meets looks as it did when the cascade was made: inputs, confidences, answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.flow.card import CascadeCard, Reference
from models.flow.cascade import Answer
from models.flow.tiers import Matrix
from schemas.compiled import compiled

_LEAST_SHARE = 1e-4
"""Of a bin: one that is empty on one side would make the index infinite."""
_SAMPLE_ROWS = 64
"""Most rows looked at of one run of a model: a run of many is no better a sample than several of few."""
_SIGNALS = 100


def stability_index(expected: Sequence[float], found: NDArray[np.int64]) -> float:
    """Return the population stability index of counts against shares: 0 for equal, 0.25 is usually called a change."""
    p = np.maximum(np.asarray(expected, np.float64), _LEAST_SHARE)
    q = np.maximum(found / max(1, int(found.sum())), _LEAST_SHARE)
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


class _TierWatch:
    """Counts of a tier's histograms, those of its inputs and then that of its confidence."""

    def __init__(self, reference: Reference, columns: Sequence[str], classes: int) -> None:
        at = {name: i for i, name in enumerate(columns)}
        self.inputs = [h for h in reference.inputs if h.name in at]
        self.confidence = reference.confidence
        self.shares = reference.answers
        self.answers = np.zeros(classes, np.int64)
        self.rows = 0
        confidence = [] if self.confidence is None else [self.confidence]
        self.histograms = [*self.inputs, *confidence]
        self._columns = np.array([at[h.name] for h in self.inputs] + [-1] * len(confidence), np.int64)
        bins = [len(h.shares) for h in self.histograms]
        self._begins = np.concatenate(([0], np.cumsum(bins))).astype(np.int64)
        self._edges = np.full(sum(bins), np.inf, np.float32)
        """Of each bin but the last of a histogram, the edge that ends it."""
        self.counts = np.zeros(sum(bins), np.int64)
        for h, begin in zip(self.histograms, self._begins.tolist(), strict=False):
            self._edges[begin : begin + len(h.edges)] = h.edges

    def add(self, rows: Matrix, answer: Answer, step: int) -> None:
        """Count every ``step``-th row, (rows, columns), and the answer to it."""
        # Rows of which no column is looked at may be of any type; the counting is compiled for one.
        given = rows if self.inputs else rows[:, :0]
        self.rows += int(
            _count(
                np.ascontiguousarray(given, np.float32), answer.confidence, answer.classes, step,
                self._columns, self._begins, self._edges, self.counts, self.answers,
            )
        )  # fmt: skip

    def indexes(self) -> list[float]:
        """Return the stability index of each histogram, and begin anew."""
        found = np.split(self.counts, self._begins[1:-1])
        out = [stability_index(h.shares, n) for h, n in zip(self.histograms, found, strict=False)]
        self.counts[:] = 0
        return out


@compiled
def _count(
    rows: NDArray[np.float32],
    confidence: NDArray[np.float32],
    classes: NDArray[np.intp],
    step: int,
    columns: NDArray[np.int64],
    begins: NDArray[np.int64],
    edges: NDArray[np.float32],
    counts: NDArray[np.int64],
    answers: NDArray[np.int64],
) -> int:
    seen = 0
    for i in range(0, len(rows), step):
        seen += 1
        answers[classes[i]] += 1
        for k in range(len(columns)):
            value = confidence[i] if columns[k] < 0 else rows[i, columns[k]]
            if np.isnan(value):
                value = np.float32(0)
            at, last = begins[k], begins[k + 1] - 1
            while at < last and value >= edges[at]:
                at += 1
            counts[at] += 1
    return seen


class DriftWatch:
    """Holds samples of what each tier meets against the cascade's reference.

    Whenever ``rows`` of a tier were looked at, each distribution beyond ``limit`` is counted in ``counts``
    (``drift_input_<tier>_<column>``, ``drift_confidence_<tier>``, ``drift_answers_<tier>``) and its line waits in
    ``signals``; ``gauges`` has the greatest index of each kind and tier.
    """

    def __init__(self, card: CascadeCard, rows: int, limit: float, counts: Counter[str]) -> None:
        self.signals: deque[str] = deque(maxlen=_SIGNALS)
        self.gauges: dict[str, float] = {}
        self._rows, self._limit, self._counts = rows, limit, counts
        self._names = [tier.name for tier in card.tiers]
        self._tiers = [
            _TierWatch(reference, tier.columns, len(card.classes))
            for reference, tier in zip(card.reference, card.tiers, strict=False)
        ]

    def on_answers(self, tier: int, answer: Answer, rows: Matrix) -> None:
        """Look at some of the rows, (rows, columns of the tier), and the answers to them."""
        if not self._rows or tier >= len(self._tiers) or not len(rows):
            return
        watch = self._tiers[tier]
        watch.add(rows, answer, -(-len(rows) // _SAMPLE_ROWS))
        if watch.rows >= self._rows:
            self._judge(self._names[tier], watch)

    def _judge(self, name: str, watch: _TierWatch) -> None:
        indexes = watch.indexes()
        inputs = indexes[: len(watch.inputs)]
        found = [
            (f"input_{name}_{h.name}", index, f"{h.name} in tier {name}")
            for h, index in zip(watch.inputs, inputs, strict=True)
        ]
        self._gauge(f"drift_inputs.{name}", inputs)
        if watch.confidence is not None:
            self._gauge(f"drift_confidence.{name}", indexes[-1:])
            found.append((f"confidence_{name}", indexes[-1], f"the confidence of tier {name}"))
        if watch.shares:
            index = stability_index(watch.shares, watch.answers)
            self._gauge(f"drift_answers.{name}", [index])
            found.append((f"answers_{name}", index, f"the answers of tier {name}"))
        watch.answers[:] = 0
        watch.rows = 0
        for counter, index, what in found:
            if index > self._limit:
                self._counts[f"drift_{counter}"] += 1
                self.signals.append(f"{what}: stability index {index:.2f}")

    def _gauge(self, name: str, indexes: Sequence[float]) -> None:
        if indexes:
            self.gauges[name] = max(indexes)
