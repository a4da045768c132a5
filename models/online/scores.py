"""Prequential scores: each prediction made before its label was known, against the label."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

MAX_GROUPS = 64
"""Most groups (representation and depth) scored apart; further ones share the last."""
OTHER = "other"


class Confusion:
    """Counts of (true, predicted); a prediction of None is a miss of the true class and no class itself."""

    def __init__(self) -> None:
        self.n = 0
        self.correct = 0
        self._pairs: Counter[tuple[str, str | None]] = Counter()

    def add(self, true: str, predicted: str | None, times: int = 1) -> None:
        """Count an answer; ``times=-1`` takes one back."""
        pair = (true, predicted)
        self.n += times
        self.correct += times * (true == predicted)
        self._pairs[pair] += times
        if not self._pairs[pair]:
            del self._pairs[pair]

    @property
    def accuracy(self) -> float | None:
        """Return the share of right answers, None before the first."""
        return self.correct / self.n if self.n else None

    def per_class(self) -> dict[str, dict[str, float | int]]:
        """Return support, predicted count, precision, recall and F1 of each class met or predicted."""
        support, predicted, right = self._marginals()
        out: dict[str, dict[str, float | int]] = {}
        for label in sorted(set(support) | set(predicted)):
            n, p, r = support[label], predicted[label], right[label]
            out[label] = {
                "n": n,
                "predicted": p,
                "correct": r,
                "precision": r / p if p else 0.0,
                "recall": r / n if n else 0.0,
                "f1": 2 * r / (n + p),
            }
        return out

    @property
    def macro_f1(self) -> float | None:
        """Return the mean F1 over the classes met or predicted, None before the first."""
        classes = self.per_class()
        return sum(c["f1"] for c in classes.values()) / len(classes) if classes else None

    @property
    def kappa(self) -> float | None:
        """Return Cohen's kappa, None before the first; 0 where chance alone would be always right."""
        if not self.n:
            return None
        support, predicted, _ = self._marginals()
        chance = sum(support[label] * predicted[label] for label in support) / self.n**2
        return (self.correct / self.n - chance) / (1 - chance) if chance < 1 else 0.0

    def _marginals(self) -> tuple[Counter[str], Counter[str], Counter[str]]:
        support: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        right: Counter[str] = Counter()
        for (true, said), times in self._pairs.items():
            support[true] += times
            if said is not None:
                predicted[said] += times
            if said == true:
                right[true] += times
        return support, predicted, right


class Score:
    """Confusion over everything, and over the last ``window`` labels."""

    def __init__(self, window: int) -> None:
        self.overall = Confusion()
        self.recent = Confusion()
        self._window: deque[tuple[str, str | None]] = deque(maxlen=window)

    def add(self, true: str, predicted: str | None) -> None:
        """Score one prediction."""
        self.overall.add(true, predicted)
        if len(self._window) == self._window.maxlen:
            self.recent.add(*self._window[0], times=-1)
        self._window.append((true, predicted))
        self.recent.add(true, predicted)

    def summary(self) -> dict[str, Any]:
        """Return the scores as plain values; those of the window say so in their names."""
        return {
            "n": self.overall.n,
            "accuracy": self.overall.accuracy,
            "macro_f1": self.overall.macro_f1,
            "kappa": self.overall.kappa,
            "window_n": self.recent.n,
            "window_accuracy": self.recent.accuracy,
            "window_macro_f1": self.recent.macro_f1,
            "window_kappa": self.recent.kappa,
            "classes": self.overall.per_class(),
        }


class ScoreBoard:
    """Scores by group: a representation, with its depth where rows are made at set depths."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._scores: dict[str, Score] = {}

    def add(self, group: str, true: str, predicted: str | None) -> None:
        """Score one prediction in its group."""
        score = self._scores.get(group)
        if score is None:
            group = group if len(self._scores) < MAX_GROUPS else OTHER
            score = self._scores.setdefault(group, Score(self._window))
        score.add(true, predicted)

    def gauges(self, classes: int) -> dict[str, float]:
        """Return the scores over the window of each group, by the names they have on telemetry.

        ``accuracy.<group>``, ``macro_f1.<group>``, ``kappa.<group>``, ``scored.<group>`` (answers in the window),
        and ``f1.``, ``precision.`` and ``recall.<group>.<class>`` of its ``classes`` most frequent classes.
        """
        out: dict[str, float] = {}
        for group, score in self._scores.items():
            recent = score.recent
            values = {"accuracy": recent.accuracy, "macro_f1": recent.macro_f1, "kappa": recent.kappa}
            out.update({f"{name}.{group}": value for name, value in values.items() if value is not None})
            out[f"scored.{group}"] = recent.n
            by_class = recent.per_class() if classes else {}
            for label in sorted(by_class, key=lambda c: (-by_class[c]["n"], c))[:classes]:
                for name in ("f1", "precision", "recall"):
                    out[f"{name}.{group}.{label}"] = by_class[label][name]
        return out

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return each group's scores."""
        return {group: score.summary() for group, score in sorted(self._scores.items())}
