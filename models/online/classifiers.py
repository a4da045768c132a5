"""The classifiers tried for this task, by name, with the defaults that measured best on real flows.

Each works on features under a signed logarithm (see ``models.online.classifier``): octets and gaps span ten
powers of ten, which the Gaussians in trees and naive Bayes, and the distances of Mondrian trees, cannot take.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from river import forest, linear_model, optim, preprocessing

from models.online.adaptive_tree import AdaptiveTree, Adwin
from models.online.ensemble import Vote
from models.online.smoothed_naive_bayes import SmoothedGaussianNB
from schemas.errors import SettingsError

Parameter = bool | int | float | str

_MAX_DEPTH = 40
"""Deeper trees come from hostile rows only, and pickling one recurses to its depth."""


def mondrian_forest(seed: int, trees: int = 10, max_nodes: int = 10_001, dirichlet: float = 0.1) -> Any:
    """Aggregated Mondrian forest (Mourtada, Gaïffas, Scornet 2021); ``max_nodes`` bounds each tree."""
    return forest.AMFClassifier(n_estimators=trees, max_nodes=max_nodes, dirichlet=dirichlet, seed=seed)


def adaptive_random_forest(
    seed: int,
    trees: int = 10,
    grace_period: int = 5,
    delta: float = 0.1,
    tau: float = 0.5,
    max_mib: float = 10.0,
) -> Any:
    """Adaptive random forest (Gomes et al. 2017), set to split early; ``max_mib`` bounds each tree."""
    return forest.ARFClassifier(
        n_models=trees,
        grace_period=grace_period,
        delta=delta,
        tau=tau,
        leaf_prediction="mc",
        max_depth=_MAX_DEPTH,
        max_size=max_mib,
        memory_estimate_period=5000,
        seed=seed,
    )


def hoeffding_adaptive_tree(
    seed: int, grace_period: int = 10, delta: float = 0.1, tau: float = 0.3, max_mib: float = 50.0
) -> Any:
    """Hoeffding adaptive tree (Bifet, Gavaldà 2009), set to split early; ``max_mib`` bounds its memory."""
    return AdaptiveTree(
        grace_period=grace_period,
        delta=delta,
        tau=tau,
        leaf_prediction="mc",
        max_depth=_MAX_DEPTH,
        max_share_to_split=0.9,
        drift_detector=Adwin(),
        max_size=max_mib,
        memory_estimate_period=5000,
        seed=seed,
    )


def softmax_regression(seed: int, rate: float = 0.2, l2: float = 0.0) -> Any:
    """Standard scaling, then multinomial logistic regression by AdaGrad. Without randomness."""
    return preprocessing.StandardScaler() | linear_model.SoftmaxRegression(
        optimizer=optim.AdaGrad(rate), l2=l2
    )


def naive_bayes(seed: int, floor: float = 0.01) -> Any:
    """Gaussian naive Bayes, ``floor`` added to its variances. Without randomness."""
    return SmoothedGaussianNB(floor)


def ensemble(seed: int, trees: int = 10) -> Any:
    """Mondrian and adaptive random forest, ``trees`` each; the mean of their probabilities decides."""
    return Vote([mondrian_forest(seed, trees=trees), adaptive_random_forest(seed, trees=trees)])


FACTORIES: dict[str, Callable[..., Any]] = {
    "mondrian_forest": mondrian_forest,
    "adaptive_random_forest": adaptive_random_forest,
    "hoeffding_adaptive_tree": hoeffding_adaptive_tree,
    "softmax_regression": softmax_regression,
    "naive_bayes": naive_bayes,
    "ensemble": ensemble,
}


LIMITS: dict[str, tuple[float, float]] = {
    "trees": (1, 1000),
    "max_nodes": (3, 1e9),
    "dirichlet": (1e-6, 1e3),
    "grace_period": (1, 1e9),
    "delta": (1e-12, 1.0),
    "tau": (0.0, 1e3),
    "max_mib": (0.1, 1e6),
    "rate": (1e-9, 1e3),
    "l2": (0.0, 1e3),
    "floor": (1e-9, 1e9),
}
"""Least and greatest value of each parameter, whichever classifier has it."""


@dataclass(frozen=True)
class Recipe:
    """A classifier by name with all its parameters: what makes two models the same before they learn."""

    algorithm: str
    parameters: tuple[tuple[str, Parameter], ...]
    seed: int

    def make(self) -> Any:
        """Return a fresh River classifier."""
        return FACTORIES[self.algorithm](seed=self.seed, **dict(self.parameters))

    @cached_property
    def digest(self) -> str:
        """Return eight hexadecimal digits of the algorithm, its parameters and seed."""
        text = json.dumps([self.algorithm, self.parameters, self.seed])
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def recipe(algorithm: str, parameters: Mapping[str, Parameter], seed: int) -> Recipe:
    """Return the recipe of a classifier, its defaults filled in and everything checked.

    Raises:
        SettingsError: unknown classifier or parameter, or a value of another type or out of range.
    """
    if algorithm not in FACTORIES:
        raise SettingsError(f"models.classifier: {algorithm!r} is not one of {', '.join(sorted(FACTORIES))}")
    known = {
        n: p.default for n, p in inspect.signature(FACTORIES[algorithm]).parameters.items() if n != "seed"
    }
    for name, value in parameters.items():
        key = f"models.parameters.{name}"
        if name not in known:
            has = ", ".join(sorted(known)) or "none"
            raise SettingsError(f"{key}: {algorithm} has no such parameter; it has {has}")
        wanted = (int, float) if isinstance(known[name], float) else (int,)
        # TOML's true is an int to Python, but not to a person.
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise SettingsError(f"{key}: {value!r} is not a{'n integer' if wanted == (int,) else ' number'}")
        low, high = LIMITS[name]
        if not low <= value <= high:
            raise SettingsError(f"{key}: {value!r} is not from {low:g} to {high:g}")
    merged = {n: type(known[n])(parameters.get(n, known[n])) for n in sorted(known)}
    return Recipe(algorithm, tuple(merged.items()), seed)
