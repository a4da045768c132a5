"""Thresholds: which answers of a tier are worth handing on, by what that gained on flows held out.

The gain of handing a flow on is 1 where the tiers behind are right and the tier is wrong, -1 the other way round, else
0. It is expected to fall with the confidence of the answer, and is estimated as a falling function of it (isotonic
regression), for all classes together and for each predicted class; the two are blended, so that a class with few flows
goes with the others. How far to trust the class is chosen by cross-validation within the held-out flows; not at all is
one of the choices, and gives the universal order. A ladder is a row of thresholds for each share of flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.flow.card import Calibration, Ladder, Method
from models.flow.study.splits import folds_of
from models.flow.study.walk import MISS, Asked, walk

RUNGS = tuple(round(share, 3) for share in (*np.arange(0, 0.1, 0.01), *np.arange(0.1, 1.0001, 0.02)))
_GRID = np.linspace(0, 1, 401)
_TILT = 0.02
"""Among answers from which nothing is gained, the less sure ones go first all the same."""
_TRUST = (0.0, 0.003, 0.01, 0.03, 0.1)
"""Weight of one flow of a class against all classes' estimate."""
_FOLDS = 4
_JUDGED = np.arange(0.02, 0.61, 0.02)
_LEAST_FLOWS = 40
_ALL = 1.01
"""Above every confidence."""


@dataclass(frozen=True)
class Order:
    """Which answers go on first: a score for each class and confidence, falling with the confidence."""

    scores: NDArray[np.float64]
    """(classes, len(_GRID))"""

    def of(self, confidence: NDArray[np.floating], answer: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the score of each answer, (rows,)."""
        place = np.clip(confidence, 0, 1) * (len(_GRID) - 1)
        low = np.minimum(place.astype(np.int64), len(_GRID) - 2)
        below, above = self.scores[answer, low], self.scores[answer, low + 1]
        return below + (above - below) * (place - low)

    def thresholds(self, score: float) -> NDArray[np.float64]:
        """Return for each class the confidence below which answers score more."""
        out = np.empty(len(self.scores))
        for number, column in enumerate(self.scores):
            if score >= column[0]:
                out[number] = 0.0
            elif score <= column[-1]:
                out[number] = _ALL
            else:
                out[number] = np.interp(-score, -column, _GRID)
        return out


def universal(classes: int) -> Order:
    """Return the order by confidence alone."""
    return Order(np.tile(1 - _GRID, (classes, 1)))


def gains(asked: Asked, tier: int, rest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 1, 0 or -1 for each flow, (flows,): what handing it on from a tier gains, given the answer then."""
    here = asked.answer[tier]
    return (rest == asked.label).astype(np.int64) - (here == asked.label).astype(np.int64)


def per_class(
    confidence: NDArray[np.floating],
    answer: NDArray[np.int64],
    gain: NDArray[np.int64],
    classes: int,
    group: NDArray[np.int64] | None = None,
) -> Order:
    """Return the order by expected gain, see the module's text.

    Args:
        confidence: (rows,) of the tier's answers on held-out flows.
        answer: (rows,) their classes.
        gain: (rows,) see ``gains``.
        classes: how many there are.
        group: (rows,) what stays together in the cross-validation.
    """
    if len(gain) < _LEAST_FLOWS or not gain.any():
        return universal(classes)
    fold = folds_of(answer.astype(np.int32), group, _FOLDS, 1)
    won = np.zeros((len(_TRUST), _FOLDS))
    for number in range(_FOLDS):
        out = fold == number
        if not out.any() or out.all():
            continue
        for i, trust in enumerate(_TRUST):
            order = _blended(confidence[~out], answer[~out], gain[~out], classes, trust)
            won[i, number] = _won(order.of(confidence[out], answer[out]), gain[out])
    better = won - won[0]
    mean, error = better.mean(axis=1), better.std(axis=1, ddof=1) / np.sqrt(_FOLDS)
    # The class must have a say in its favour that is more than the folds' noise.
    sure = mean - error
    best = int(sure.argmax())
    return _blended(confidence, answer, gain, classes, _TRUST[best] if sure[best] > 0 else 0.0)


def _won(score: NDArray[np.float64], gain: NDArray[np.int64]) -> float:
    """Return the gain per flow, mean over the shares of flows that are handed on."""
    sums = np.concatenate([[0], np.cumsum(gain[np.argsort(-score, kind="stable")])])
    return float(sums[np.round(_JUDGED * len(gain)).astype(int)].mean() / len(gain))


def _blended(
    confidence: NDArray[np.floating],
    answer: NDArray[np.int64],
    gain: NDArray[np.int64],
    classes: int,
    trust: float,
) -> Order:
    tilt = _TILT * (1 - _GRID)
    if trust == 0:
        return universal(classes)
    every = _falling(confidence, gain)
    scores = np.tile(every, (classes, 1))
    for number in np.unique(answer):
        mine = answer == number
        weight = trust * mine.sum()
        scores[number] = (weight * _falling(confidence[mine], gain[mine]) + every) / (weight + 1)
    return Order(scores + tilt)


def _falling(confidence: NDArray[np.floating], gain: NDArray[np.int64]) -> NDArray[np.float64]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(confidence, gain)
    found: NDArray[np.float64] = fitted.predict(_GRID)
    return found


def ladder(order: Order, confidence: NDArray[np.floating], answer: NDArray[np.int64]) -> Ladder:
    """Return thresholds for each share of the flows that have these answers, (rows,)."""
    classes = len(order.scores)
    score = np.sort(order.of(confidence, answer))[::-1]
    shares, values = [0.0], [np.zeros(classes)]
    for share in RUNGS[1:-1]:
        many = round(share * len(score))
        if 0 < many < len(score):
            # Between the last that goes on and the first that stays, where they differ.
            limit = (score[many - 1] + score[many]) / 2
            found = np.maximum(order.thresholds(float(limit)), values[-1])
            shares.append(share)
            values.append(found)
    shares.append(1.0)
    values.append(np.full(classes, _ALL))
    return Ladder(shares=tuple(shares), values=tuple(tuple(row.tolist()) for row in values))


@dataclass(frozen=True)
class Tuned:
    """Ladders of a chain, one for each tier but the last."""

    method: Method
    ladders: tuple[Ladder, ...]

    def thresholds(self, shares: Sequence[float]) -> list[NDArray[np.float32]]:
        """Return thresholds at a share for each ladder."""
        return [ladder.at(share) for ladder, share in zip(self.ladders, shares, strict=True)]


def tune(asked: Asked, classes: int, method: Method, group: NDArray[np.int64] | None = None) -> Tuned:
    """Return the ladders of a chain by what held-out flows say.

    From the last tier to the first each is tuned against what the tiers behind it then say, at half of their flows
    handed on; the shares on each ladder are of the flows that come to the tier.
    """
    orders: list[Order] = []
    rest = asked.answer[-1]
    for tier in reversed(range(asked.tiers - 1)):
        some = asked.sees(tier)
        behind = np.where(rest != MISS, rest, asked.answer[tier])
        here = asked.take(some)
        order = universal(classes)
        if method == "per_class":
            gain = gains(here, tier, behind[some])
            mine = group[some] if group is not None else None
            order = per_class(here.confidence[tier], here.answer[tier], gain, classes, mine)
        orders.insert(0, order)
        made = ladder(order, here.confidence[tier], here.answer[tier])
        low = (asked.answer[tier] != MISS) & (asked.confidence[tier] < made.at(0.5)[asked.answer[tier]])
        rest = np.where(low, behind, asked.answer[tier])
    ladders: list[Ladder] = []
    here_mask = asked.sees(0)
    for tier, order in enumerate(orders):
        some = here_mask & asked.sees(tier)
        few = asked.sees(tier) if some.sum() < _LEAST_FLOWS else some
        made = ladder(order, asked.confidence[tier][few], asked.answer[tier][few])
        ladders.append(made)
        low = some & (asked.confidence[tier] < made.at(0.5)[asked.answer[tier]])
        here_mask = low & asked.sees(tier + 1)
    return Tuned(method, tuple(ladders))


def calibrate(probabilities: NDArray[np.floating], label: NDArray[np.int32]) -> Calibration:
    """Return what makes confidences honest: temperature or isotonic, whichever is better by cross-validation.

    Args:
        probabilities: (rows, classes) on held-out flows.
        label: (rows,)
    """
    if len(label) < _LEAST_FLOWS:
        return Calibration()
    fold = folds_of(label, None, _FOLDS, 2)
    right = probabilities.argmax(axis=1) == label
    fitters = (lambda p, y: Calibration(), _temperature, _isotonic)
    errors = []
    for fit in fitters:
        error = 0.0
        for number in range(_FOLDS):
            out = fold == number
            made = fit(probabilities[~out], label[~out])
            told = made.confidence(probabilities[out].astype(np.float32), probabilities[out].argmax(axis=1))
            error += float(((told - right[out]) ** 2).sum())
        errors.append(error)
    return fitters[int(np.argmin(errors))](probabilities, label)


def _temperature(probabilities: NDArray[np.floating], label: NDArray[np.int32]) -> Calibration:
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-7))

    def loss(log_t: float) -> float:
        scaled = logs / np.exp(log_t)
        scaled -= scaled.max(axis=1, keepdims=True)
        totals = np.log(np.exp(scaled).sum(axis=1))
        return float((totals - scaled[np.arange(len(label)), label]).mean())

    found = minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded")
    return Calibration(method="temperature", temperature=float(np.exp(found.x)))


def _isotonic(probabilities: NDArray[np.floating], label: NDArray[np.int32]) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    top = probabilities.max(axis=1)
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    fitted.fit(top, probabilities.argmax(axis=1) == label)
    x, y = fitted.X_thresholds_.astype(float), fitted.y_thresholds_.astype(float)
    # Flat stretches would make answers equal that are not: a little slope keeps their order.
    y = 0.98 * y + 0.02 * x
    return Calibration(method="isotonic", x=tuple(x.tolist()), y=tuple(np.maximum.accumulate(y).tolist()))


def within(
    asked: Asked, tuned: Tuned, shares: Sequence[float], limit: float, of: str, fast: int = 0
) -> tuple[bool, float]:
    """Return whether a budget holds at these shares, and what of it is used.

    Args:
        asked: held-out flows.
        tuned: the ladders.
        shares: one for each.
        limit: the budget: a share, ms or us.
        of: ``share`` of flows that tier ``fast`` hands on, ``latency`` (p90, ms), or ``cpu`` (us per flow).
        fast: number of the tier whose answers are weighed.
    """
    done = walk(asked, tuned.thresholds(shares))
    used = {
        "share": lambda: float(done.escalated[fast].mean()),
        "latency": lambda: float(np.quantile(done.latency_us, 0.9)) / 1e3,
        "cpu": lambda: float(done.cpu_us.mean()),
    }[of]()
    return used <= limit, used
