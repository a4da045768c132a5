"""Whether what a cascade meets looks as it did when the cascade was made: inputs, confidences, answers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.flow.card import CascadeCard, Histogram, Reference
from models.flow.cascade import Answer

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


class _Counted:
    """Counts of one histogram's bins."""

    def __init__(self, histogram: Histogram, column: int) -> None:
        self.histogram, self.column = histogram, column
        self._edges = np.array(histogram.edges, np.float32)
        self.counts = np.zeros(len(histogram.shares), np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        places = np.searchsorted(self._edges, np.nan_to_num(values), side="right")
        self.counts += np.bincount(places, minlength=len(self.counts))

    def index(self) -> float:
        """Return the index, and begin anew."""
        index = stability_index(self.histogram.shares, self.counts)
        self.counts[:] = 0
        return index


class _TierWatch:
    def __init__(self, reference: Reference, columns: Sequence[str], classes: int) -> None:
        at = {name: i for i, name in enumerate(columns)}
        self.inputs = [_Counted(h, at[h.name]) for h in reference.inputs if h.name in at]
        self.confidence = None if reference.confidence is None else _Counted(reference.confidence, 0)
        self.shares = reference.answers
        self.answers = np.zeros(classes, np.int64)
        self.rows = 0


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

    def on_answers(self, tier: int, answer: Answer, rows: NDArray[np.float32]) -> None:
        """Look at some of the rows, (rows, columns of the tier), and the answers to them."""
        if not self._rows or tier >= len(self._tiers) or not len(rows):
            return
        watch = self._tiers[tier]
        step = -(-len(rows) // _SAMPLE_ROWS)
        some = rows[::step]
        for counted in watch.inputs:
            counted.add(some[:, counted.column])
        if watch.confidence is not None:
            watch.confidence.add(answer.confidence[::step])
        watch.answers += np.bincount(answer.classes[::step], minlength=len(watch.answers))
        watch.rows += len(some)
        if watch.rows >= self._rows:
            self._judge(self._names[tier], watch)

    def _judge(self, name: str, watch: _TierWatch) -> None:
        found = [
            (
                f"input_{name}_{counted.histogram.name}",
                counted.index(),
                f"{counted.histogram.name} in tier {name}",
            )
            for counted in watch.inputs
        ]
        self._gauge(f"drift_inputs.{name}", [index for _, index, _ in found])
        if watch.confidence is not None:
            index = watch.confidence.index()
            self._gauge(f"drift_confidence.{name}", [index])
            found.append((f"confidence_{name}", index, f"the confidence of tier {name}"))
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
