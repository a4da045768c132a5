"""What a training is given, and how it can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import FlowgaugeError


class Diverged(FlowgaugeError):
    """The training loss rose instead of falling; the message says from what to what."""


class NoBetterThanMajority(FlowgaugeError):
    """A model that is right no more often than whoever always says the most frequent class."""


@dataclass(frozen=True)
class Fit:
    """Rows to learn from, and rows of other flows to tell by when to stop."""

    rows: NDArray[np.float32]
    """(rows, columns)"""
    label: NDArray[np.int32]
    """(rows,) 0 to ``classes`` - 1, each at least once."""
    tune_rows: NDArray[np.float32]
    tune_label: NDArray[np.int32]
    """Only of classes that ``label`` has."""
    classes: int
    columns: tuple[str, ...]
    seed: int
    threads: int = 1


def log_loss(probabilities: NDArray[np.floating[Any]], label: NDArray[np.int32]) -> float:
    """Return the mean of -log p of the true classes; NaN without rows."""
    if not len(label):
        return float("nan")
    return float(-np.log(np.maximum(probabilities[np.arange(len(label)), label], 1e-12)).mean())


def majority_share(learned: NDArray[np.int32], asked: NDArray[np.int32]) -> float:
    """Return how often the most frequent class of ``learned`` is right on ``asked``."""
    if not len(asked) or not len(learned):
        return 0.0
    return float((asked == np.bincount(learned).argmax()).mean())
