"""What the chosen chain does on the test flows of each split: by method and share, and at the tuned thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import Method
from models.flow.study.choose import HALF, Chain, asked_of, fast_answers
from models.flow.study.plan import Budget
from models.flow.study.run import Split, Study
from models.flow.study.splits import Part
from models.flow.study.tune import RUNGS, Tuned, gains, tune, within
from models.flow.study.walk import Asked, Walk, caught, walk, walk_masks, weighted_f1
from models.packet.scores import interval

METHODS = ("per_class", "universal", "oracle", "random")
SHARES = tuple(round(share, 2) for share in np.arange(0, 1.001, 0.05))
QUANTILES = (0.5, 0.9, 0.99)
SOON_MS = 16.0
_RANDOM_TRIES = 10
_GRID = tuple(round(share, 2) for share in np.arange(0, 1.001, 0.1))
_LEAST_LOSS = 0.001
"""F1 that is not given up for a smaller share."""


@dataclass(frozen=True)
class Curve:
    """F1 and errors caught against the share of flows handed on, at ``SHARES``."""

    f1: list[float]
    caught: list[float]


@dataclass(frozen=True)
class Result:
    """A split's test flows."""

    seed: int
    flows: int
    curves: dict[str, Curve]
    fast_f1: float
    slow_f1: float
    oracle_share: float
    """Of flows that gain by being handed on."""
    ceiling: float
    """Most of the fast tier's errors that half of the flows can hold."""
    share: float
    """Of flows handed to the slowest tier, by the tuned thresholds."""
    f1: float
    answered: float
    """Share of flows with an answer."""
    latency_ms: dict[str, list[float]]
    """QUANTILES of what the cascade, all flows on the fast and all on the slow tier need."""
    soon: dict[str, float]
    """Share within SOON_MS of the first packet."""
    cpu_us: dict[str, float]
    cdf_ms: dict[str, list[float]]
    """101 quantiles."""
    tuned: tuple[float, ...]
    """Shares for the ladders."""
    used: float
    """Of the budget, on the flows that it was tuned on."""

    def at_half(self, method: str) -> tuple[float, float]:
        """Return F1 and errors caught with half of the flows handed on."""
        place = SHARES.index(HALF)
        return self.curves[method].f1[place], self.curves[method].caught[place]


def results(study: Study) -> list[Result]:
    """Return what the chosen chain does, split by split."""
    return [result(study, split) for split in study.splits]


def tuned_of(study: Study, split: Split, method: Method) -> tuple[Asked, Tuned]:
    """Return the chain's answers on the TUNE flows of a split, and its ladders."""
    mine = [split.models[model] for model in study.chosen.chain.models]
    tuning = split.part == Part.TUNE
    asked = asked_of(study.data, mine, tuning, study.plan.wait_s)
    return asked, tune(asked, len(study.data.classes), method, study.data.group[tuning])


def settle_shares(
    asked: Asked, tuned: Tuned, chain: Chain, budget: Budget, classes: int
) -> tuple[float, ...]:
    """Return the shares for the ladders: the most within the budget that lose no F1 by it.

    A budget of shares is kept below by what another sample of as many flows may differ.
    """
    limit = budget.limit
    if budget.of == "share" and limit < 1:
        limit -= float(np.sqrt(limit * (1 - limit) / max(1, len(asked.label))))
    tried: list[tuple[float, tuple[float, ...]]] = []
    ways = product(_GRID, repeat=asked.tiers - 1) if chain.by_hand else map(chain.shares, RUNGS)
    for shares in ways:
        fits, _ = within(asked, tuned, shares, limit, budget.of, chain.fast)
        if fits or not tried:
            done = walk(asked, tuned.thresholds(shares))
            tried.append((weighted_f1(asked.label, done.answer, classes), shares))
    best = max(f1 for f1, _ in tried)
    return next(shares for f1, shares in reversed(tried) if f1 >= best - _LEAST_LOSS)


def result(study: Study, split: Split) -> Result:
    """Return what the chosen chain does on a split."""
    data, plan, chain = study.data, study.plan, study.chosen.chain
    many = len(data.classes)
    mine = [split.models[model] for model in chain.models]
    asked = asked_of(data, mine, split.part == Part.TEST, plan.wait_s)
    curves: dict[str, Curve] = {}
    methods: tuple[Method, Method] = ("per_class", "universal")
    for method in methods:
        tuning, tuned = tuned_of(study, split, method)
        curves[method] = _by_ladder(asked, tuned, chain, many)
        if method == plan.method:
            shares = settle_shares(tuning, tuned, chain, plan.budget, many)
            done = walk(asked, tuned.thresholds(shares))
            used = within(tuning, tuned, shares, plan.budget.limit, plan.budget.of, chain.fast)[1]
    curves["oracle"] = _by_order(asked, chain, many, [_oracle(asked, chain)])
    rng = np.random.default_rng(split.seed)
    tries = [rng.random(len(asked.label)) for _ in range(_RANDOM_TRIES)]
    curves["random"] = _by_order(asked, chain, many, tries)
    fast = fast_answers(asked, chain)
    wrong = float((fast != asked.label).mean())
    walks = {"cascade": done, "fast": _all(asked, chain, False), "slow": _all(asked, chain, True)}
    return Result(
        seed=split.seed,
        flows=len(asked.label),
        curves=curves,
        fast_f1=weighted_f1(asked.label, fast, many),
        slow_f1=weighted_f1(asked.label, asked.deepest(), many),
        oracle_share=float((_gain(asked, chain) > 0).mean()),
        ceiling=min(1.0, HALF / wrong) if wrong else 1.0,
        share=float(done.escalated[chain.fast].mean()),
        f1=weighted_f1(asked.label, done.answer, many),
        answered=float((done.answer >= 0).mean()),
        latency_ms={
            name: [float(np.quantile(w.latency_us, q)) / 1e3 for q in QUANTILES] for name, w in walks.items()
        },
        soon={name: float((w.latency_us <= SOON_MS * 1e3).mean()) for name, w in walks.items()},
        cpu_us={name: float(w.cpu_us.mean()) for name, w in walks.items()},
        cdf_ms={
            name: (np.quantile(w.latency_us, np.linspace(0, 1, 101)) / 1e3).tolist()
            for name, w in walks.items()
        },
        tuned=shares,
        used=used,
    )


def _all(asked: Asked, chain: Chain, on: bool) -> Walk:
    """Return what becomes of flows if all stop at the fast tier, or all go on to the slowest."""
    yes, no = np.ones(len(asked.label), np.bool_), np.zeros(len(asked.label), np.bool_)
    return walk_masks(asked, [yes if on or tier < chain.fast else no for tier in range(asked.tiers - 1)])


def _gain(asked: Asked, chain: Chain) -> NDArray[np.int64]:
    gain = gains(asked, chain.fast, asked.deepest(chain.fast))
    gain[~asked.sees(chain.fast)] = 0
    return gain


def _oracle(asked: Asked, chain: Chain) -> NDArray[np.float64]:
    """Return an order, (flows,), by what is truly gained; among equals the less sure go first."""
    return _gain(asked, chain) + 0.5 * (1 - asked.confidence[chain.fast])


def _by_ladder(asked: Asked, tuned: Tuned, chain: Chain, many: int) -> Curve:
    """Return a curve over the shares that there truly were, which are not quite those that were tuned."""
    shares, f1, errors = [], [], []
    for share in RUNGS:
        done = walk(asked, tuned.thresholds(chain.shares(share)))
        shares.append(float(done.escalated[chain.fast].mean()))
        f1.append(weighted_f1(asked.label, done.answer, many))
        errors.append(caught(asked.label, asked.answer[chain.fast], done.escalated[chain.fast]))
    shares_up = np.maximum.accumulate(shares)
    return Curve(np.interp(SHARES, shares_up, f1).tolist(), np.interp(SHARES, shares_up, errors).tolist())


def _by_order(asked: Asked, chain: Chain, many: int, orders: Sequence[NDArray[np.float64]]) -> Curve:
    f1, errors = np.zeros((len(orders), len(SHARES))), np.zeros((len(orders), len(SHARES)))
    yes = np.ones(len(asked.label), np.bool_)
    seen = asked.sees(chain.fast)
    for i, order in enumerate(orders):
        ranked = np.argsort(np.where(seen, -order, np.inf), kind="stable")
        for j, share in enumerate(SHARES):
            mask = np.zeros(len(asked.label), np.bool_)
            mask[ranked[: round(share * len(ranked))]] = True
            masks = [
                yes if tier < chain.fast else mask if tier == chain.fast else yes
                for tier in range(asked.tiers - 1)
            ]
            done = walk_masks(asked, masks)
            f1[i, j] = weighted_f1(asked.label, done.answer, many)
            errors[i, j] = caught(asked.label, asked.answer[chain.fast], done.escalated[chain.fast])
    return Curve(f1.mean(axis=0).tolist(), errors.mean(axis=0).tolist())


def summary(study: Study, found: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of a study, means over the splits with half the width of their 95% interval."""

    def over(values: Sequence[float]) -> dict[str, float | None]:
        mean, half = interval(list(values))
        return {"mean": round(mean, 5), "half_95": None if half is None else round(half, 5)}

    return {
        "dataset": study.data.name,
        "flows": study.data.flows,
        "classes": list(study.data.classes),
        "split": study.plan.by,
        "splits": len(found),
        "tiers": [
            {"name": f"{kind}@{depth}", "representation": representation, "depth": depth, "kind": kind}
            for representation, depth, kind in study.chosen.chain.models
        ],
        "fast_tier": study.chosen.chain.fast,
        "method": study.plan.method,
        "budget": {"of": study.plan.budget.of, "limit": study.plan.budget.limit},
        "fast_f1": over([r.fast_f1 for r in found]),
        "slow_f1": over([r.slow_f1 for r in found]),
        "f1": over([r.f1 for r in found]),
        "f1_below_all_slow": over([r.slow_f1 - r.f1 for r in found]),
        "share_escalated": over([r.share for r in found]),
        "answered": over([r.answered for r in found]),
        "oracle_share": over([r.oracle_share for r in found]),
        "caught_ceiling_at_half": over([r.ceiling for r in found]),
        "at_half": {
            method: {
                "f1": over([r.at_half(method)[0] for r in found]),
                "caught": over([r.at_half(method)[1] for r in found]),
            }
            for method in METHODS
        },
        "latency_ms": {
            name: dict(
                zip(
                    ("p50", "p90", "p99"),
                    np.mean([r.latency_ms[name] for r in found], axis=0).round(3).tolist(),
                    strict=True,
                )
            )
            for name in ("cascade", "fast", "slow")
        },
        "share_within_16ms": {
            name: round(float(np.mean([r.soon[name] for r in found])), 4) for name in ("cascade", "slow")
        },
        "cpu_us_per_flow": {
            name: round(float(np.mean([r.cpu_us[name] for r in found])), 3)
            for name in ("cascade", "fast", "slow")
        },
        "by_split": [
            {
                "seed": r.seed,
                "flows": r.flows,
                "fast_f1": round(r.fast_f1, 5),
                "slow_f1": round(r.slow_f1, 5),
                "f1": round(r.f1, 5),
                "share_escalated": round(r.share, 5),
                "caught_at_half": {m: round(r.at_half(m)[1], 5) for m in METHODS},
                "f1_at_half": {m: round(r.at_half(m)[0], 5) for m in METHODS},
            }
            for r in found
        ],
    }
