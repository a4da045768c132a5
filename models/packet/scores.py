"""How good answers are: accuracy, macro F1, confusion, the vote of a flow's packets, intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5% for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Scores:
    """What a model scored on some packets."""

    packets: int
    accuracy: float
    macro_f1: float
    """Mean of the F1 of the classes that have packets here."""
    flows: int
    vote_accuracy: float
    """Of the packets, when each takes what its flow's packets say together."""
    flow_accuracy: float
    """Of the flows, by that vote."""
    confusion: list[list[int]]
    """Packets by true class (rows) and answer (columns)."""


def score(probabilities: NDArray[np.float32], classes: NDArray[np.int32], flows: NDArray[np.int64]) -> Scores:
    """Score answers.

    Args:
        probabilities: (packets, classes).
        classes: true class of each packet.
        flows: number of each packet's flow; a flow has one class.
    """
    many = probabilities.shape[1]
    answers = probabilities.argmax(axis=1)
    confusion = np.zeros((many, many), np.int64)
    np.add.at(confusion, (classes, answers), 1)
    first, of_flow, votes = _votes(probabilities, flows)
    right = votes == classes[first]
    packets = len(classes)
    return Scores(
        packets=packets,
        accuracy=_share(int(np.trace(confusion)), packets),
        macro_f1=macro_f1(confusion),
        flows=len(first),
        vote_accuracy=_share(int(right[of_flow].sum()), packets),
        flow_accuracy=_share(int(right.sum()), len(first)),
        confusion=confusion.tolist(),
    )


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 of the classes that a confusion matrix has packets of; 0 if it is empty."""
    truly, answered = confusion.sum(axis=1), confusion.sum(axis=0)
    present = truly > 0
    f1 = 2 * np.diag(confusion)[present] / (truly + answered)[present]
    return float(f1.mean()) if present.any() else 0.0


def _votes(
    probabilities: NDArray[np.float32], flows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return each flow's first row, each row's flow, and each flow's class by the sum of log probabilities."""
    _, first, of_flow = np.unique(flows, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), probabilities.shape[1]))
    np.add.at(sums, of_flow, np.log(np.maximum(probabilities, 1e-6, dtype=np.float64)))
    return first, of_flow, sums.argmax(axis=1)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and half the width of its 95% interval by Student's t (None for a single value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = float(np.std(values, ddof=1))
    t = _T_975[len(values) - 2] if len(values) <= len(_T_975) + 1 else 1.96
    return mean, t * deviation / len(values) ** 0.5
