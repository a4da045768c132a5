"""Trains one model on the rows of one representation at one depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.study import boosted, networks
from models.flow.study.data import FlowData
from models.flow.study.export import check_export, lightgbm_onnx, sklearn_onnx
from models.flow.study.splits import Part
from models.flow.study.watch import Diverged, Fit, NoBetterThanMajority, log_loss, majority_share
from models.packet.training import Interrupted
from schemas.errors import FlowgaugeError

MODELS = ("decision_tree", "random_forest", "lightgbm", "mlp", "cnn", "river")
USUAL_MODELS = ("decision_tree", "random_forest", "lightgbm", "mlp")
_MOST_COLUMNS = 300
"""Of bits of headers there are thousands, most of them always the same; the ones that tell most are kept."""
LEAST_ROWS = 20
_RIVER = "mondrian_forest"


class TooFew(FlowgaugeError):
    """Too few rows or classes at this depth to learn from."""


@dataclass(frozen=True)
class Settings:
    """How models are trained."""

    trees: int = 100
    """Of a random forest."""
    rounds: int = 200
    """Of boosting, at most."""
    threads: int = 1


@dataclass(frozen=True)
class Trained:
    """A model ready to be a tier."""

    data: bytes
    ending: str
    """Of its file: ``onnx`` or ``river``."""
    columns: tuple[str, ...]
    classes: tuple[int, ...]
    """Its outputs as numbers of the data's classes."""
    train_loss: float
    tune_loss: float
    note: str
    rows: int
    model: str = ""
    """``NAME/VERSION`` of a packet model that was taken as it is."""


def train(
    data: FlowData,
    part: NDArray[np.uint8],
    kind: str,
    representation: str,
    depth: int,
    seed: int,
    settings: Settings,
    stop: Callable[[], bool],
) -> Trained:
    """Train a model on the TRAIN flows that reach ``depth``.

    Raises:
        TooFew: there is nothing to learn from at this depth.
        Diverged: its training loss rose, with safe settings too.
        NoBetterThanMajority: it is not worth having.
        Interrupted: ``stop`` ended it.
    """
    fit, kept = _fit(data, part, representation, depth, seed, settings.threads)
    model, file, note = _trained(kind, fit, settings, stop)
    learned = _answers(kind, model, fit.rows)
    tuned = _answers(kind, model, fit.tune_rows)
    if stop():
        raise Interrupted
    loss = log_loss(learned, fit.label)
    if not np.isfinite(loss):
        raise Diverged("the training loss is no number")
    _compare(fit, learned, tuned)
    if kind != "river":
        check_export(file, fit.rows[:512], learned[:512], f"{kind} at {depth} packets")
    return Trained(
        data=file,
        ending="river" if kind == "river" else "onnx",
        columns=fit.columns,
        classes=kept,
        train_loss=loss,
        tune_loss=log_loss(tuned, fit.tune_label),
        note=note,
        rows=len(fit.label),
    )


def _compare(fit: Fit, learned: NDArray[Any], tuned: NDArray[Any]) -> None:
    """Raise unless the model is right more often than the majority class, on flows it did not learn from."""
    held_out = len(fit.tune_label) > 0
    answers, label = (tuned, fit.tune_label) if held_out else (learned, fit.label)
    right, often = float((answers.argmax(axis=1) == label).mean()), majority_share(fit.label, label)
    if right < often or (not held_out and right <= often):
        raise NoBetterThanMajority(
            f"right on {right:.1%} of {len(label)} flows, always saying the most frequent class on {often:.1%}"
        )


def _fit(
    data: FlowData, part: NDArray[np.uint8], representation: str, depth: int, seed: int, threads: int
) -> tuple[Fit, tuple[int, ...]]:
    rows = data.rows[representation, depth]
    mine, other = part == Part.TRAIN, part == Part.TUNE
    label = data.label[rows.flows][mine[rows.flows]]
    kept = np.unique(label)
    if len(kept) < 2 or len(label) < LEAST_ROWS:
        raise TooFew(
            f"{len(label)} flows of {len(kept)} classes reach {depth} packets: too few to learn from"
        )
    number = np.full(len(data.classes), -1, np.int32)
    number[kept] = np.arange(len(kept))
    values = rows.take(mine)
    columns = _columns(values, number[label], seed)
    tune_label = number[data.label[rows.flows][other[rows.flows]]]
    known = tune_label >= 0
    fit = Fit(
        rows=np.ascontiguousarray(values[:, columns]),
        label=number[label],
        tune_rows=np.ascontiguousarray(rows.take(other)[known][:, columns]),
        tune_label=tune_label[known],
        classes=len(kept),
        columns=tuple(rows.columns[i] for i in columns),
        seed=seed,
        threads=threads,
    )
    return fit, tuple(kept.tolist())


def _columns(values: NDArray[np.float32], label: NDArray[np.int32], seed: int) -> NDArray[np.intp]:
    """Return the columns worth having: those that differ, and of very many those that a forest uses most."""
    differ = np.flatnonzero(values.min(axis=0) != values.max(axis=0))
    if not len(differ):
        raise TooFew("all flows look the same at this depth")
    if len(differ) <= _MOST_COLUMNS:
        return differ
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(50, min_samples_leaf=2, random_state=seed).fit(values[:, differ], label)
    best = np.argsort(-forest.feature_importances_, kind="stable")[:_MOST_COLUMNS]
    return np.sort(differ[best])


def _trained(kind: str, fit: Fit, settings: Settings, stop: Callable[[], bool]) -> tuple[Any, bytes, str]:
    """Return a model, its file, and a note on its training."""
    many = len(fit.columns)
    if kind == "decision_tree":
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(min_samples_leaf=3, max_leaf_nodes=1024, random_state=fit.seed)
        tree.fit(fit.rows, fit.label)
        return tree, sklearn_onnx(tree, many), ""
    if kind == "random_forest":
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            settings.trees, min_samples_leaf=2, random_state=fit.seed, n_jobs=settings.threads
        )
        forest.fit(fit.rows, fit.label)
        return forest, sklearn_onnx(forest, many), ""
    if kind == "lightgbm":
        booster, note = boosted.train(fit, settings.rounds, stop)
        return booster, lightgbm_onnx(booster, many), note
    if kind in ("mlp", "cnn"):
        network = networks.train(kind, fit, stop)
        return network, networks.onnx_of(network), ""
    return _river(fit, stop)


def _river(fit: Fit, stop: Callable[[], bool]) -> tuple[Any, bytes, str]:
    from models.flow.river_tier import river_file
    from models.online.classifier import OnlineClassifier
    from models.online.classifiers import recipe

    classifier = OnlineClassifier(recipe(_RIVER, {}, fit.seed))
    # Numbers in rising order are the classes' order; one row of each class first fixes it.
    first = np.unique(fit.label, return_index=True)[1]
    rest = np.random.default_rng(fit.seed).permutation(np.setdiff1d(np.arange(len(fit.label)), first))
    for row in np.concatenate([first, rest]).tolist():
        if stop():
            raise Interrupted
        classifier.learn(fit.rows[row], fit.columns, str(fit.label[row]))
    return classifier, river_file(classifier), ""


def _answers(kind: str, model: Any, rows: NDArray[np.float32]) -> NDArray[Any]:
    if not len(rows):
        return np.zeros((0, 1))
    if kind == "river":
        return model.probabilities(rows, model.names)
    if kind == "lightgbm":
        return boosted.predict(model, rows)
    if kind in ("mlp", "cnn"):
        return networks.predict(model, rows)
    return model.predict_proba(rows)
