"""What a leaf of a Hoeffding tree has seen of its rows: a Gaussian of each feature in each class, as arrays.

River's ``GaussianSplitter`` in compiled code. A leaf tries to split every few rows, and asks ten thresholds of every
feature each time: that was nearly all of what learning cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MEAN, _SQUARES, _LEAST, _GREATEST = range(4)
"""What is known of a feature in a class: mean, sum of squared deviations, least and greatest value."""
_ROOT_2 = math.sqrt(2.0)


class Observed:
    """Gaussians of features by class, for rows that have every feature as a number."""

    __slots__ = ("_class_of", "_gaussians", "_weights", "names")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._class_of: dict[int, int] = {}
        """Place of each class, in the order they came."""
        self._weights = np.zeros(0)
        self._gaussians = np.zeros((0, 4, len(names)))

    def update(self, x: Mapping[str, float], code: int, weight: float) -> None:
        """Take a row of a class in."""
        at = self._class_of.get(code)
        if at is None:
            at = self._add_class(code)
        _update(self._weights, self._gaussians, at, np.array([x[name] for name in self.names]), weight)

    def _add_class(self, code: int) -> int:
        at = self._class_of[code] = len(self._class_of)
        if at == len(self._weights):
            # Half as many again, so that a leaf of a few classes is small.
            more = at // 2 + 1
            new = np.empty((more, 4, len(self.names)))
            new[:, :_LEAST], new[:, _LEAST], new[:, _GREATEST] = 0.0, math.inf, -math.inf
            self._weights = np.concatenate((self._weights, np.zeros(more)))
            self._gaussians = np.concatenate((self._gaussians, new))
        return at

    def best_splits(self, entropy: float, least_share: float, points: int) -> tuple[Floats, Floats]:
        """Return the greatest information gain of each feature, and the threshold that has it.

        Args:
            entropy: of the leaf's classes, in bits.
            least_share: each side must hold more than this share of the weight.
            points: thresholds tried, evenly between the least and the greatest value.
        """
        known = len(self._class_of)
        return _best_splits(self._weights[:known], self._gaussians[:known], entropy, least_share, points)

    def sides(self, feature: int, threshold: float) -> list[dict[int, float]]:
        """Return the weight of each class at most at a threshold of a feature, and above it."""
        below: dict[int, float] = {}
        above: dict[int, float] = {}
        for code, at in self._class_of.items():
            _, _, least, greatest = self._gaussians[at, :, feature]
            weight = float(self._weights[at])
            if threshold < least:
                above[code] = weight
            elif threshold >= greatest:
                below[code] = weight
            else:
                below[code] = _share_below(self._weights, self._gaussians, at, feature, threshold) * weight
                above[code] = weight - below[code]
        return [below, above]


@njit(cache=True)
def _update(weights: Floats, gaussians: Floats, at: int, values: Floats, weight: float) -> None:
    """Add a row to a class, as Welford does."""
    weights[at] += weight
    step = weight / weights[at]
    for i in range(len(values)):
        value = values[i]
        before = gaussians[at, _MEAN, i]
        mean = before + step * (value - before)
        gaussians[at, _MEAN, i] = mean
        gaussians[at, _SQUARES, i] += weight * (value - before) * (value - mean)
        gaussians[at, _LEAST, i] = min(gaussians[at, _LEAST, i], value)
        gaussians[at, _GREATEST, i] = max(gaussians[at, _GREATEST, i], value)


@njit(cache=True)
def _share_below(weights: Floats, gaussians: Floats, at: int, feature: int, threshold: float) -> float:
    """Return the share of a class that its Gaussian has at most at a threshold."""
    weight = weights[at]
    variance = gaussians[at, _SQUARES, feature] / (weight - 1.0) if weight > 1.0 else 0.0
    if variance <= 0.0:
        return 0.0
    z = (threshold - gaussians[at, _MEAN, feature]) / math.sqrt(variance)
    return 0.5 * (1.0 + math.erf(z / _ROOT_2))


@njit(cache=True)
def _entropy(weights: Floats) -> float:
    """Return the entropy in bits; a class that is not there weighs 0."""
    entropy = total = 0.0
    for weight in weights:
        if weight > 0.0:
            entropy -= weight * math.log2(weight)
            total += weight
    return (entropy + total * math.log2(total)) / total if total > 0.0 else 0.0


@njit(cache=True)
def _gain(
    weights: Floats,
    gaussians: Floats,
    feature: int,
    threshold: float,
    entropy: float,
    least_share: float,
    below: Floats,
    above: Floats,
) -> float:
    """Return the information gain of a threshold; ``below`` and ``above`` are scratch."""
    low = high = 0.0
    for at in range(len(weights)):
        weight = weights[at]
        if threshold < gaussians[at, _LEAST, feature]:
            share = 0.0
        elif threshold >= gaussians[at, _GREATEST, feature]:
            share = 1.0
        else:
            share = _share_below(weights, gaussians, at, feature, threshold)
        below[at] = share * weight
        above[at] = weight - below[at]
        low += below[at]
        high += above[at]
    total = low + high
    if not (total > 0.0 and low / total > least_share and high / total > least_share):
        return -math.inf
    return entropy - (low * _entropy(below) + high * _entropy(above)) / total


@njit(cache=True)
def _best_splits(
    weights: Floats, gaussians: Floats, entropy: float, least_share: float, points: int
) -> tuple[Floats, Floats]:
    classes, features = len(weights), gaussians.shape[2]
    gains, thresholds = np.full(features, -math.inf), np.zeros(features)
    below, above = np.empty(classes), np.empty(classes)
    for i in range(features):
        least, greatest = math.inf, -math.inf
        for at in range(classes):
            least = min(least, gaussians[at, _LEAST, i])
            greatest = max(greatest, gaussians[at, _GREATEST, i])
        step = (greatest - least) / (points + 1.0)
        for point in range(points):
            threshold = least + step * (point + 1)
            if least < threshold < greatest:
                gain = _gain(weights, gaussians, i, threshold, entropy, least_share, below, above)
                if gain > gains[i]:
                    gains[i], thresholds[i] = gain, threshold
    return gains, thresholds


def warm_up() -> None:
    """Compile all of it."""
    observed = Observed(("a",))
    for value, code in ((0.0, 0), (1.0, 1), (2.0, 0), (3.0, 1)):
        observed.update({"a": value}, code, 1.0)
    _, thresholds = observed.best_splits(1.0, 0.01, 10)
    observed.sides(0, float(thresholds[0]))
