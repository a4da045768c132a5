"""Prediction ids and ``Prediction`` messages, made from the rows of a feature batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.online.classifier import Prediction
from schemas.features import FeatureBatch
from schemas.prediction_ids import NAMED, ids_of
from schemas.predictions import PREDICTED, PredictionTexts, PredictionWriter, fill_predicted


@dataclass(frozen=True)
class RowIds:
    """What names each row of a batch: its prediction id, flow id and depth."""

    numbers: NDArray[np.uint64]
    flows: list[int]
    depths: list[int]

    @property
    def texts(self) -> list[str]:
        """Return the prediction ids as messages have them."""
        return [f"{number:016x}" for number in self.numbers.tolist()]


def prediction_ids(batch: FeatureBatch, model: str) -> RowIds:
    """Return the ids of a model's predictions on a batch: the same whenever the same rows come again."""
    columns = batch.columns
    named = np.empty(batch.rows, NAMED)
    for name in NAMED.names or ():
        named[name] = columns[name]
    numbers = ids_of(model, batch.representation, named)
    return RowIds(numbers, columns["flow_id"].tolist(), columns["depth"].tolist())


@dataclass(frozen=True)
class Predictions:
    """What a model says about the rows of a feature batch."""

    batch: FeatureBatch
    ids: RowIds
    answers: Sequence[Prediction]
    """(label, confidence) for each row."""
    model: str
    model_version: str
    received_time_ns: int
    """Wall clock when the batch was taken up."""
    made_time_ns: int
    """Wall clock when the answers were there."""

    def messages(self) -> tuple[list[bytes], list[str]]:
        """Return a ``Prediction`` message for each row, and their keys: the flow ids as texts."""
        batch = self.batch
        labelled = _labelled(
            batch.probe, batch.representation, self.model, self.model_version, batch.replayed
        )
        said = labelled.numbers(self.answers)
        return labelled.writer.encode(self._rows(), self.ids.numbers, said, True, self.made_time_ns)

    def _rows(self) -> NDArray[np.void]:
        rows = np.zeros(self.batch.rows, PREDICTED)
        fill_predicted(rows, self.batch, slice(None), self.received_time_ns)
        rows["confidence"] = [confidence for _, confidence in self.answers]
        rows["tier"] = -1
        return rows


class _Labelled:
    """A writer that knows all labels told so far."""

    def __init__(self, texts: PredictionTexts) -> None:
        self._texts = texts
        self._numbers: dict[str | None, int] = {}
        self.writer = PredictionWriter(texts)

    def numbers(self, answers: Sequence[Prediction]) -> NDArray[np.int64]:
        """Return the number of each answer's label, as the writer then knows it."""
        known = self._numbers
        try:
            said = [known[label] for label, _ in answers]
        except KeyError:
            for label, _ in answers:
                known.setdefault(label, len(known))
            self.writer = PredictionWriter(replace(self._texts, labels=tuple(known)))
            said = [known[label] for label, _ in answers]
        return np.array(said, np.int64)


@lru_cache(maxsize=256)
def _labelled(probe: str, representation: str, model: str, version: str, replayed: bool) -> _Labelled:
    return _Labelled(PredictionTexts(probe, representation, model, version, replayed, ()))
