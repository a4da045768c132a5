"""Boosted trees of LightGBM, trained under watch: on flows of many classes its default settings may diverge.

A leaf with few rows and next to no curvature takes a step without bound; the loss on what it learns from then rises
instead of falling. That is seen here from the training loss, and answered with settings that bound the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.study.watch import Diverged, Fit
from models.packet.training import Interrupted
from schemas.errors import SettingsError

USUAL: dict[str, Any] = {"learning_rate": 0.1, "num_leaves": 31, "min_data_in_leaf": 20}
"""LightGBM's own."""
SAFE: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 5,
    "min_sum_hessian_in_leaf": 1.0,
    "lambda_l2": 5.0,
}
_MOST_RISE = 1.2
"""By which the training loss may lie over its least before the training counts as diverged."""
_PATIENCE = 15
_NAMES = ("train", "tune")


def train(
    fit: Fit, rounds: int, stop: Callable[[], bool], usual: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """Return a booster with its best number of rounds, and a note if it had to be trained with safe settings.

    Args:
        fit: what to learn from.
        rounds: at most.
        stop: asked after each.
        usual: settings tried first; None: ``USUAL``.

    Raises:
        Diverged: with the safe settings too.
    """
    try:
        return _train(fit, rounds, stop, USUAL if usual is None else usual), ""
    except Diverged as error:
        return _train(fit, rounds, stop, SAFE), f"{error}; trained again with leaves kept small"


def _train(fit: Fit, rounds: int, stop: Callable[[], bool], settings: dict[str, Any]) -> Any:
    try:
        import lightgbm
    except ImportError:
        raise SettingsError("lightgbm is not installed: pip install 'flowgauge[study]'") from None
    losses: dict[str, dict[str, list[float]]] = {}
    least = math.inf

    def watch(env: Any) -> None:
        nonlocal least
        if stop():
            raise Interrupted
        loss = losses["train"]["multi_logloss"][-1]
        if not math.isfinite(loss) or loss > _MOST_RISE * least:
            raise Diverged(
                f"the training loss rose from {least:.2f} to {loss:.2f} at round {env.iteration + 1}"
            )
        least = min(least, loss)

    watch.order = 30  # type: ignore[attr-defined]  # after the losses are noted
    parameters = {
        "objective": "multiclass",
        "num_class": fit.classes,
        "metric": "multi_logloss",
        "num_threads": fit.threads,
        "seed": fit.seed,
        "deterministic": True,
        "verbosity": -1,
        **settings,
    }
    sets = [lightgbm.Dataset(fit.rows, fit.label), lightgbm.Dataset(fit.tune_rows, fit.tune_label)]
    used, names = (sets, list(_NAMES)) if len(fit.tune_label) else (sets[:1], ["train"])
    callbacks = [lightgbm.record_evaluation(losses), watch]
    if len(used) > 1:
        callbacks.append(lightgbm.early_stopping(_PATIENCE, verbose=False))
    try:
        booster = lightgbm.train(
            parameters, sets[0], rounds, valid_sets=used, valid_names=names, callbacks=callbacks
        )
    except lightgbm.basic.LightGBMError as error:  # its own checks stop some of what diverges
        raise Diverged(f"LightGBM gave up: {str(error).splitlines()[0]}") from None
    # What is exported is the whole booster, so it must hold no more than the best rounds.
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration or None))


def predict(booster: Any, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities, (rows, classes)."""
    found: NDArray[np.float64] = booster.predict(rows.astype(np.float64), num_threads=1)
    return found
