"""One classifier of one representation: rows of float32 in, label and confidence out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river.base import Ensemble

from models.online.adaptive_tree import AdaptiveTree
from models.online.classifiers import Recipe
from models.online.ensemble import Vote

Prediction = tuple[str | None, float]
NO_PREDICTION: Prediction = (None, 0.0)

_MEASURE_GROWTH = 1.5
"""Walking a model's memory takes up to a tenth of a second, so it is done again only after so much growth."""
_RECHECK_GROWTH = 1.02


class OnlineClassifier:
    """A River classifier behind rows of features.

    The first row that it learns fixes the features and their order. Later rows are matched by name: a feature
    that is missing counts as 0, as does a value that is not finite, and one that was unknown then is ignored.
    Classes are numbers to River: the order in which it walks a set of them is then the same in every process,
    which it is not for texts.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.labels_learned = 0
        self.classes: list[str] = []
        self.names: tuple[str, ...] | None = None
        self._code: dict[str, int] = {}
        self._model: Any = recipe.make()
        self._aligned: tuple[tuple[str, ...], NDArray[np.intp]] | None = None
        self._memory_bytes = 0
        self._measured_at = -1

    @property
    def version(self) -> str:
        """Return algorithm, digest of its parameters, and labels learned so far."""
        return f"{self.recipe.algorithm}-{self.recipe.digest}+{self.labels_learned}"

    def knows(self, label: str) -> bool:
        """Return whether a row of this class was learned."""
        return label in self._code

    def predict(self, rows: NDArray[np.float32], names: tuple[str, ...]) -> list[Prediction]:
        """Return (label, confidence 0 to 1) for each row; (None, 0.0) while there is nothing to say.

        Args:
            rows: (rows, features).
            names: names of the columns.
        """
        if self.names is None:
            return [NO_PREDICTION] * len(rows)
        fixed, answer = self.names, self._answer
        values = self._values(rows, names)
        if isinstance(self._model, AdaptiveTree):
            asked = self._model.predict_proba_rows(values, fixed)
            answers = {id(probabilities): probabilities for probabilities in asked}
            said = {key: answer(probabilities) for key, probabilities in answers.items()}
            return [said[id(probabilities)] for probabilities in asked]
        ask = self._model.predict_proba_one
        return [answer(ask(dict(zip(fixed, v, strict=True)))) for v in values.tolist()]

    def probabilities(self, rows: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the probability of each class, (rows, classes) in the order of ``classes``.

        Where the model says nothing all classes are as probable.

        Args:
            rows: (rows, features).
            names: names of the columns.
        """
        fixed, ask = self.names or names, self._model.predict_proba_one
        out = np.zeros((len(rows), len(self.classes)), np.float32)
        for i, values in enumerate(self._values(rows, names)):
            for code, probability in ask(dict(zip(fixed, values, strict=True))).items():
                out[i, code] = probability
        out[~np.isfinite(out)] = 0
        sums = out.sum(axis=1, keepdims=True)
        return np.where(
            sums > 0, out / np.where(sums > 0, sums, 1), np.float32(1 / max(1, len(self.classes)))
        )

    def learn(self, row: NDArray[np.float32], names: tuple[str, ...], label: str) -> None:
        """Learn one row, (features,), of a class; a class never seen before is taken in."""
        if self.names is None:
            self.names = names
        code = self._code.get(label)
        if code is None:
            code = self._code[label] = len(self.classes)
            self.classes.append(label)
        values = self._values(row[np.newaxis], names)[0].tolist()
        self._model.learn_one(dict(zip(self.names, values, strict=True)), code)
        self.labels_learned += 1

    def is_full(self, limit_bytes: int) -> bool:
        """Return whether the model takes so much memory, as far as it tells; cheap enough to ask for each row.

        Between two measurements it is held to grow with its labels. Where that goes over the limit it is measured,
        but only once it has learned a fiftieth more than the last time.
        """
        at = self._measured_at
        if self.labels_learned > max(at * _MEASURE_GROWTH, 0):
            return self.memory_bytes >= limit_bytes
        expected = self._memory_bytes * self.labels_learned / max(at, 1)
        if expected >= limit_bytes and self.labels_learned >= at * _RECHECK_GROWTH + 1:
            self._measured_at = self.labels_learned
            self._memory_bytes = _memory_bytes(self._model)
        return self._memory_bytes >= limit_bytes

    @property
    def memory_bytes(self) -> int:
        """Return the memory of the model, measured when it had learned at least two thirds of its labels.

        For a forest it is the first tree's times their number.
        """
        if self.labels_learned > self._measured_at * _MEASURE_GROWTH:
            self._measured_at = self.labels_learned
            self._memory_bytes = _memory_bytes(self._model)
        return self._memory_bytes

    def _values(self, rows: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return rows in the model's order of features, under a signed logarithm."""
        values = rows.astype(np.float64)
        if names != self.names:
            # One more column, of zeros, is where missing features look.
            values = np.pad(values, ((0, 0), (0, 1)))[:, self._columns(names)]
        values[~np.isfinite(values)] = 0.0
        scaled: NDArray[np.float64] = np.sign(values) * np.log1p(np.abs(values))
        return scaled

    def _columns(self, names: tuple[str, ...]) -> NDArray[np.intp]:
        if self._aligned is None or self._aligned[0] != names:
            at = {name: i for i, name in enumerate(names)}
            columns = [at.get(name, len(names)) for name in self.names or ()]
            self._aligned = (names, np.array(columns, dtype=np.intp))
        return self._aligned[1]

    def _answer(self, probabilities: Mapping[int, float]) -> Prediction:
        total = sum(probabilities.values())
        if not (total > 0 and math.isfinite(total)):
            return NO_PREDICTION
        # Among equals the class learned first, in whatever order the model lists them.
        greatest = max(probabilities.values())
        code = min(code for code, probability in probabilities.items() if probability == greatest)
        return self.classes[code], min(1.0, greatest / total)


def _memory_bytes(model: Any) -> int:
    if isinstance(model, Vote):
        return sum(map(_memory_bytes, model.members))
    if isinstance(model, Ensemble) and len(model):
        return int(model[0]._raw_memory_usage) * len(model)
    return int(model._raw_memory_usage)
