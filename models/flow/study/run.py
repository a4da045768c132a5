"""Runs a study: trains what is missing, judges chains on flows held out, and proposes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.flow.study.choose import (
    Chain,
    Judged,
    Model,
    Model1,
    candidates,
    judge,
    propose,
    ready,
)
from models.flow.study.data import FlowData
from models.flow.study.packet import KIND, checked_model
from models.flow.study.plan import Plan
from models.flow.study.points import Key, Point, make_point, read_answers, tier_name
from models.flow.study.splits import Part
from models.flow.study.walk import MISS, weighted_f1
from models.packet.training import Interrupted
from schemas.errors import InputError, SettingsError

POINTS = "points"
_BATCH = "256"

Told = Callable[[Key, int], None]
"""Told the training in work, and how many are finished."""


@dataclass(frozen=True)
class Split:
    """One split of the flows, and the models of it."""

    seed: int
    part: NDArray[np.uint8]
    models: dict[Model, Model1]


@dataclass(frozen=True)
class Study:
    """A finished study."""

    data: FlowData
    plan: Plan
    splits: list[Split]
    points: list[Point]
    f1: dict[Model, float]
    """On TUNE flows, the flows that do not reach the model's depth left out; mean over the splits."""
    row_us: dict[Model, float]
    judged: list[Judged]
    chosen: Judged


def run(data: FlowData, folder: Path, plan: Plan, stop: Callable[[], bool], told: Told) -> Study | None:
    """Return the study; None if ``stop`` ended it before. What is finished is kept.

    Raises:
        InputError: no chain of tiers can be made.
        SettingsError: a chain was asked for of models that are not there.
    """
    points = folder / POINTS
    points.mkdir(parents=True, exist_ok=True)
    splits = [Split(seed, data.split(plan.by, seed), {}) for seed in range(1, plan.splits + 1)]
    for split in splits:
        _check(data, split)
    if plan.packet_model is not None:
        checked_model(plan.packet_model, data)
    found: list[Point] = []
    for number, key in enumerate(plan.keys()):
        told(key, number)
        split = splits[key.seed - 1]
        try:
            if stop():
                return None
            point = make_point(points, data, split.part, key, plan.training, stop, plan.packet_model)
        except Interrupted:
            return None
        found.append(point)
        if not point.failure:
            answers = read_answers(points, point, data.flows, len(data.classes))
            split.models[key.model] = ready(data, split.part, point, answers)
    common = [model for model in splits[0].models if all(model in split.models for split in splits)]
    if not common:
        raise InputError(
            f"{data.name}: no model could be trained: {next(p.failure for p in found if p.failure)}"
        )
    f1 = {model: float(np.mean([_f1(data, split, model) for split in splits])) for model in common}
    row_us = {
        model: float(np.median([split.models[model].point.row_us[_BATCH] for split in splits]))
        for model in common
    }
    judged = [
        judge(data, chain, _pairs(splits), plan.wait_s, 0.47) for chain in _chains(data, plan, f1, row_us)
    ]
    if not judged:
        raise InputError(f"{data.name}: no two models make a cascade; give more --models or --depths")
    return Study(data, plan, splits, found, f1, row_us, judged, propose(judged))


def _pairs(splits: list[Split]) -> list[tuple[NDArray[np.uint8], dict[Model, Model1]]]:
    return [(split.part, split.models) for split in splits]


def _check(data: FlowData, split: Split) -> None:
    """Raise InputError where a split has nothing to learn from, tune on or test on."""
    for part, word in ((Part.TRAIN, "learn from"), (Part.TUNE, "tune on"), (Part.TEST, "test on")):
        counts = data.counts(split.part, part)
        if np.count_nonzero(counts) < 2:
            raise InputError(
                f"{data.name}: split {split.seed} has flows of {np.count_nonzero(counts)} classes to {word}; a class "
                f"needs more than one {data.group_word} (or give --split flow)"
            )


def _f1(data: FlowData, split: Split, model: Model) -> float:
    found = split.models[model]
    mine = (split.part == Part.TUNE) & (found.answer != MISS)
    return weighted_f1(data.label[mine], found.answer[mine], len(data.classes))


def _chains(data: FlowData, plan: Plan, f1: dict[Model, float], row_us: dict[Model, float]) -> list[Chain]:
    if not plan.chain:
        return candidates(data, f1, row_us)
    named = {tier_name(model): model for model in f1}
    for name in plan.chain:
        if name not in named:
            raise SettingsError(f"--tiers {name}: there is {', '.join(named)}")
    models = tuple(named[name] for name in plan.chain)
    if models[0][2] == KIND:
        raise SettingsError(f"--tiers {plan.chain[0]}: the first must be one that every flow has a row for")
    if len(models) < 2 or [m[1] for m in models] != sorted(m[1] for m in models):
        raise SettingsError("--tiers: two at least, from shallow to deep")
    return [Chain(models, by_hand=True)]
