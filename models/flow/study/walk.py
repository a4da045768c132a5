"""How flows go through a chain of tiers, and how good and how soon what comes out is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MISS = -1
"""The answer of a flow that no tier saw: always wrong."""


@dataclass(frozen=True)
class Asked:
    """What each tier of a chain says of the same flows, whether or not it gets to see them."""

    label: NDArray[np.int32]
    """(flows,)"""
    answer: NDArray[np.int64]
    """(tiers, flows) class; MISS where the flow never gets so deep in time."""
    confidence: NDArray[np.float32]
    """(tiers, flows)"""
    at_us: NDArray[np.float64]
    """(tiers, flows) when the tier's packet came, since the flow's first."""
    row_us: NDArray[np.float64]
    """(tiers,) time that an answer takes."""
    wait_us: float
    """After so long a flow that waits is answered with what there is."""

    @property
    def tiers(self) -> int:
        """Return how many tiers there are."""
        return len(self.answer)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Asked:
        """Return some of the flows."""
        return Asked(
            self.label[chosen],
            self.answer[:, chosen],
            self.confidence[:, chosen],
            self.at_us[:, chosen],
            self.row_us,
            self.wait_us,
        )

    def sees(self, tier: int) -> NDArray[np.bool_]:
        """Return which flows get so deep, (flows,)."""
        return self.answer[tier] != MISS

    def deepest(self, first: int = 0) -> NDArray[np.int64]:
        """Return the answer of the deepest tier that each flow reaches, from tier ``first`` on."""
        out = self.answer[first].copy()
        for tier in range(first + 1, self.tiers):
            some = self.sees(tier)
            out[some] = self.answer[tier][some]
        return out


@dataclass(frozen=True)
class Walk:
    """What became of flows."""

    answer: NDArray[np.int64]
    tier: NDArray[np.int64]
    """Which gave the answer."""
    escalated: NDArray[np.bool_]
    """(tiers - 1, flows): the tier's answer was not good enough."""
    latency_us: NDArray[np.float64]
    """From the flow's first packet to its answer."""
    cpu_us: NDArray[np.float64]


def escalations(asked: Asked, tier: int, thresholds: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which flows' answers of a tier are below their class's threshold; False where it has none."""
    answer = asked.answer[tier]
    return (answer != MISS) & (asked.confidence[tier] < thresholds[answer])


def walk(asked: Asked, thresholds: Sequence[NDArray[np.float32]]) -> Walk:
    """Return what becomes of flows by these thresholds, (classes,) for each tier but the last."""
    return walk_masks(asked, [escalations(asked, tier, values) for tier, values in enumerate(thresholds)])


def walk_masks(asked: Asked, wanted: Sequence[NDArray[np.bool_]]) -> Walk:
    """Return what becomes of flows if those ``wanted``, (flows,) for each tier but the last, go on from it."""
    flows = len(asked.label)
    answer, latency = asked.answer[0].copy(), asked.at_us[0] + asked.row_us[0]
    tier, cpu = np.zeros(flows, np.int64), np.full(flows, asked.row_us[0])
    here = asked.sees(0)
    latency[~here], cpu[~here] = asked.wait_us, 0
    escalated = np.zeros((asked.tiers - 1, flows), np.bool_)
    for number, mask in enumerate(wanted):
        escalated[number] = here & mask
        here = escalated[number] & asked.sees(number + 1)
        # It was held for packets that did not come in time.
        latency[escalated[number] & ~here] = asked.wait_us
        answer[here], tier[here] = asked.answer[number + 1][here], number + 1
        cpu[here] += asked.row_us[number + 1]
        latency[here] = asked.at_us[number + 1][here] + cpu[here]
    return Walk(answer, tier, escalated, latency, cpu)


def weighted_f1(label: NDArray[np.int32], answer: NDArray[np.int64], classes: int) -> float:
    """Return the F1 of each class weighted by its flows; a miss is an error. 0 without flows."""
    if not len(label):
        return 0.0
    right = np.bincount(label[label == answer], minlength=classes)
    truly = np.bincount(label, minlength=classes)
    said = np.bincount(answer[answer != MISS], minlength=classes)
    f1 = 2 * right / np.maximum(truly + said, 1)
    return float((f1 * truly).sum() / len(label))


def caught(label: NDArray[np.int32], fast: NDArray[np.int64], escalated: NDArray[np.bool_]) -> float:
    """Return the share of the fast model's errors that escalate; 1 if it made none."""
    wrong = (fast != label) & (fast != MISS)
    return float(escalated[wrong].mean()) if wrong.any() else 1.0
