"""Which tiers to put together: candidate chains, judged on flows held out, and the one proposed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.flow.card import Calibration, Method
from models.flow.study.data import NEVER_US, FlowData
from models.flow.study.packet import KIND
from models.flow.study.points import Point, tier_name
from models.flow.study.splits import Part
from models.flow.study.tune import Tuned, calibrate, tune
from models.flow.study.walk import MISS, Asked, caught, escalations, walk, weighted_f1

Model = tuple[str, int, str]
"""Representation, depth, kind."""
HALF = 0.5
CATCH = 0.9
"""Share of the fast model's errors that should be handed on with half of the flows."""
NEAR = 0.005
"""How far the cascade's F1 may lie below that of all flows on the slow model."""
_BATCH = "256"
_KEPT_PER_DEPTH = 3
_ABOUT_F1 = 0.02
_LEAST_REACHED = 0.9
_SAME_F1 = 0.004
"""Models whose F1 on held-out flows differ by less count as equal, and the cheaper one is taken."""


@dataclass(frozen=True)
class Model1:
    """A model of one split: its point, calibration and answers."""

    point: Point
    calibration: Calibration
    answer: NDArray[np.int64]
    """(flows,) MISS where it was not asked."""
    confidence: NDArray[np.float32]
    """(flows,)"""


def ready(
    data: FlowData, part: NDArray[np.uint8], point: Point, probabilities: NDArray[np.float32]
) -> Model1:
    """Calibrate a model on the TUNE flows and take its answers."""
    asked = ~np.isnan(probabilities[:, 0])
    tuning = asked & (part == Part.TUNE)
    calibration = calibrate(probabilities[tuning], data.label[tuning])
    answer = np.full(data.flows, MISS, np.int64)
    answer[asked] = probabilities[asked].argmax(axis=1)
    confidence = np.zeros(data.flows, np.float32)
    confidence[asked] = calibration.confidence(probabilities[asked], answer[asked])
    return Model1(point, calibration, answer, confidence)


def asked_of(data: FlowData, models: Sequence[Model1], flows: NDArray[np.bool_], wait_s: float) -> Asked:
    """Return what a chain of models says of some flows; one that comes too deep too late is not asked."""
    answer = np.stack([model.answer for model in models])
    at = np.stack([data.reached_us[model.point.key.depth] for model in models])
    for tier, model in enumerate(models):
        late = ~data.reached(model.point.key.depth, wait_s)
        # What a flow waits for is the time since its first packet: none is late for packet 1.
        answer[tier][late] = MISS
    return Asked(
        data.label[flows],
        answer[:, flows],
        np.stack([model.confidence for model in models])[:, flows],
        np.where(at[:, flows] == NEVER_US, wait_s * 1e6, at[:, flows]),
        np.array([model.point.row_us[_BATCH] for model in models]),
        wait_s * 1e6,
    )


@dataclass(frozen=True)
class Chain:
    """Tiers that may be a cascade."""

    models: tuple[Model, ...]
    """From the fastest to the slowest."""
    fast: int = 0
    """The tier whose answers are weighed. Those before it only answer flows that have too few packets for it; flows
    that it hands on go as deep as they get, and tiers between it and the last answer those that get no deeper."""
    by_hand: bool = False
    """Chosen by a person: every tier's answers are weighed."""

    def __str__(self) -> str:
        """Return it in words."""
        return " → ".join(tier_name(model) for model in self.models)

    def shares(self, share: float) -> tuple[float, ...]:
        """Return the share for each ladder at which ``share`` of the fast tier's flows go on."""
        return tuple(share if tier == self.fast else 1.0 for tier in range(len(self.models) - 1))


@dataclass(frozen=True)
class Judged:
    """A chain on held-out flows, mean over the splits."""

    chain: Chain
    fast_f1: float
    slow_f1: float
    """Of all flows on the slow model."""
    half_f1: float
    """With at most half of the flows handed on."""
    caught: float
    """Of the fast tier's errors, with half of the flows handed on."""
    ceiling: float
    """Most that could be caught: with more errors than half of the flows, not all can."""
    latency_ms: float
    """Median of what flows need."""
    cpu_us: float
    """Per flow."""

    @property
    def reaches(self) -> bool:
        """Return whether it is as good as asked for: F1 near the slow model's, and errors caught."""
        return self.half_f1 >= self.slow_f1 - NEAR and self.caught >= min(CATCH, 0.9 * self.ceiling)


def candidates(data: FlowData, f1: Mapping[Model, float], row_us: Mapping[Model, float]) -> list[Chain]:
    """Return chains worth judging: for each depth the best models and the cheapest, paired, shallow before deep.

    Where some flows are too short for the fast model, a chain begins with a model on packet 1; where some are too
    short for the slow one, a model between the two may answer them. A packet model never begins one: not every flow has
    a payload in packet 1.

    Args:
        data: the flows.
        f1: of each model on held-out flows that reach its depth.
        row_us: time that an answer takes.
    """
    some: dict[int, list[Model]] = {}
    for depth in sorted({model[1] for model in f1}):
        mine = sorted((model for model in f1 if model[1] == depth), key=lambda model: -f1[model])
        cheapest = min(mine, key=lambda model: row_us[model])
        some[depth] = list(dict.fromkeys([*mine[:_KEPT_PER_DEPTH], cheapest]))
    usual = [model for model in f1 if model[2] != KIND]
    if not usual:
        return []
    entry = min(model[1] for model in usual)
    first = max((model for model in usual if model[1] == entry), key=lambda model: f1[model])
    chains = []
    for fast_depth in (depth for depth in some if depth >= entry):
        for fast in some[fast_depth]:
            is_octets = fast[2] == KIND
            has = data.covered(*fast[:2]) if is_octets else data.reached(fast_depth)
            if has.mean() < _LEAST_REACHED:
                # Not a fast tier: the model before it would answer most of the flows that it should.
                continue
            needs_entry = is_octets or (fast_depth > entry and not has.all())
            for slow_depth in some:
                for slow in some[slow_depth]:
                    if slow_depth > fast_depth or (
                        slow_depth == fast_depth and row_us[slow] > 2 * row_us[fast]
                    ):
                        chains.append(Chain((first, fast, slow), 1) if needs_entry else Chain((fast, slow)))
    return chains


def judge(
    data: FlowData,
    chain: Chain,
    splits: Iterable[tuple[NDArray[np.uint8], Mapping[Model, Model1]]],
    wait_s: float,
    share: float,
    method: Method = "universal",
    part: Part = Part.TUNE,
) -> Judged:
    """Return how a chain does on the flows of a part of each split; thresholds are always tuned on TUNE."""
    found = []
    for parts, models in splits:
        mine = [models[model] for model in chain.models]
        tuning = asked_of(data, mine, parts == Part.TUNE, wait_s)
        tuned = tune(tuning, len(data.classes), method, data.group[parts == Part.TUNE])
        asked = tuning if part == Part.TUNE else asked_of(data, mine, parts == part, wait_s)
        found.append(_measured(asked, chain, tuned, len(data.classes), share))
    return Judged(chain, *(float(np.mean(values)) for values in zip(*found, strict=True)))


def _measured(
    asked: Asked, chain: Chain, tuned: Tuned, classes: int, share: float
) -> tuple[float, float, float, float, float, float, float]:
    thresholds = tuned.thresholds(chain.shares(share))
    done = walk(asked, thresholds)
    fast = fast_answers(asked, chain)
    handed = escalations(asked, chain.fast, tuned.thresholds(chain.shares(HALF))[chain.fast])
    wrong = float((fast != asked.label).mean())
    return (
        weighted_f1(asked.label, fast, classes),
        weighted_f1(asked.label, asked.deepest(), classes),
        weighted_f1(asked.label, done.answer, classes),
        caught(asked.label, asked.answer[chain.fast], handed),
        min(1.0, HALF / wrong) if wrong else 1.0,
        float(np.median(done.latency_us)) / 1e3,
        float(done.cpu_us.mean()),
    )


def fast_answers(asked: Asked, chain: Chain) -> NDArray[np.int64]:
    """Return what the fast tier says, or one before it where the flow is too short."""
    out = asked.answer[0].copy()
    for tier in range(1, chain.fast + 1):
        out = np.where(asked.sees(tier), asked.answer[tier], out)
    return out


def propose(judged: Sequence[Judged]) -> Judged:
    """Return the chain to take.

    Of those that reach what is asked for, such whose slow model is about the best; of these the soonest, and then
    the one that takes least CPU. If none does: of those with about the best F1, near their slow model's if there are
    such, the one that hands on most of the fast model's errors.
    """
    good = [each for each in judged if each.reaches]
    if not good:
        near = [each for each in judged if each.half_f1 >= each.slow_f1 - NEAR] or list(judged)
        best = max(each.half_f1 for each in near)
        return max(
            (each for each in near if each.half_f1 >= best - _ABOUT_F1),
            key=lambda each: each.caught / each.ceiling,
        )
    best = max(each.half_f1 for each in good)
    near = [each for each in good if each.half_f1 >= best - _SAME_F1]
    return min(near, key=lambda each: (round(each.latency_ms, 2), each.cpu_us))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which of (cost, quality) no other one beats, the cheapest first."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    out, best = [], -np.inf
    for i in order:
        if points[i][1] > best:
            out.append(i)
            best = points[i][1]
    return out
