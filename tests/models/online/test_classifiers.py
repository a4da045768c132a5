"""One battery that every classifier of the registry passes."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from models.online.classifier import NO_PREDICTION, OnlineClassifier
from models.online.classifiers import FACTORIES, LIMITS, recipe
from models.online.config import ClassifierName
from schemas.errors import SettingsError

NAMES = ("size", "gap_ns", "ttl", "constant")
ALL = pytest.mark.parametrize("algorithm", sorted(FACTORIES))


def stream(rows: int, classes: int = 3, seed: int = 7) -> tuple[NDArray[np.float32], list[str]]:
    """Return rows of classes that differ in size, gap and time to live, shuffled."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, classes, rows)
    columns = (
        rng.normal(100 * 4.0**kind, 5),
        rng.lognormal(10 + 2 * kind, 0.3),
        np.where(kind == 0, 64, 128),
        np.full(rows, 5),
    )
    return np.stack(columns, axis=1).astype(np.float32), [f"app {k}" for k in kind]


def taught(algorithm: str, rows: int = 400, seed: int = 1) -> OnlineClassifier:
    model = OnlineClassifier(recipe(algorithm, {}, seed))
    features, labels = stream(rows)
    for row, name in zip(features, labels, strict=True):
        model.learn(row, NAMES, name)
    return model


def test_settings_and_registry_name_the_same_classifiers() -> None:
    assert set(get_args(ClassifierName)) == set(FACTORIES)


@ALL
def test_no_prediction_before_the_first_label(algorithm: str) -> None:
    model = OnlineClassifier(recipe(algorithm, {}, 1))
    assert model.predict(stream(3)[0], NAMES) == [NO_PREDICTION] * 3
    assert NO_PREDICTION == (None, 0.0)
    assert model.version.endswith("+0")


@ALL
def test_one_label_is_enough_for_a_prediction_or_none(algorithm: str) -> None:
    model = OnlineClassifier(recipe(algorithm, {}, 1))
    features, _ = stream(2)
    model.learn(features[0], NAMES, "only")
    assert {said for said, _ in model.predict(features, NAMES)} <= {"only", None}


@ALL
def test_learns_classes_that_are_easy_to_tell_apart(algorithm: str) -> None:
    model = taught(algorithm)
    features, labels = stream(200, seed=8)
    right = sum(said == true for (said, _), true in zip(model.predict(features, NAMES), labels, strict=True))
    assert right >= 190
    assert model.labels_learned == 400


@ALL
def test_a_new_class_is_taken_in_and_predicted(algorithm: str) -> None:
    model = taught(algorithm)
    assert not model.knows("new")
    rng = np.random.default_rng(3)
    new = np.stack(
        (rng.normal(9000, 50, 300), rng.lognormal(20, 0.1, 300), np.full(300, 255), np.full(300, 5)), 1
    )
    for row in new[:-1].astype(np.float32):
        model.learn(row, NAMES, "new")
    assert model.knows("new")
    assert model.predict(new[-1:].astype(np.float32), NAMES)[0][0] == "new"


@ALL
def test_goes_on_identically_after_pickling(algorithm: str) -> None:
    model = taught(algorithm)
    twin = pickle.loads(pickle.dumps(model))
    features, labels = stream(150, classes=4, seed=9)
    for row, name in zip(features, labels, strict=True):
        assert model.predict(row[np.newaxis], NAMES) == twin.predict(row[np.newaxis], NAMES)
        model.learn(row, NAMES, name)
        twin.learn(row, NAMES, name)
    assert model.version == twin.version


@ALL
def test_a_model_of_many_labels_pickles(algorithm: str) -> None:
    # Pickling walks trees recursively, so depth is what could break it.
    model = OnlineClassifier(recipe(algorithm, {}, 1))
    rng = np.random.default_rng(4)
    rows = 10.0 ** rng.uniform(0, 9, (800, 4))
    for i, row in enumerate(rows.astype(np.float32)):
        model.learn(row, NAMES, f"app {i % 12}")
    twin = pickle.loads(pickle.dumps(model))
    assert twin.predict(rows[:20].astype(np.float32), NAMES) == model.predict(
        rows[:20].astype(np.float32), NAMES
    )


@ALL
def test_same_seed_same_answers(algorithm: str) -> None:
    features, _ = stream(100, seed=5)
    assert taught(algorithm).predict(features, NAMES) == taught(algorithm).predict(features, NAMES)


def test_same_answers_whatever_the_hash_seed_of_the_process() -> None:
    code = (
        "from tests.models.online.test_classifiers import *\n"
        "for name in FACTORIES: print(name, taught(name, 100).predict(stream(60, seed=5)[0], NAMES))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@ALL
def test_rows_of_other_features_are_matched_by_name(algorithm: str) -> None:
    model = taught(algorithm)
    features, _ = stream(50, seed=6)
    straight = model.predict(features, NAMES)
    assert model.predict(features[:, ::-1], NAMES[::-1]) == straight
    with_extra = np.concatenate((np.ones((50, 1), np.float32), features), axis=1)
    assert model.predict(with_extra, ("novel", *NAMES)) == straight
    without = np.array(features)
    without[:, 1] = 0
    assert model.predict(features[:, [0, 2, 3]], ("size", "ttl", "constant")) == model.predict(without, NAMES)
    model.learn(features[0, :1], ("size",), "app 0")
    model.learn(np.zeros(0, np.float32), (), "app 0")
    assert len(model.predict(np.zeros((2, 0), np.float32), ())) == 2


@ALL
def test_constant_extreme_and_non_finite_features_give_probabilities(algorithm: str) -> None:
    model = OnlineClassifier(recipe(algorithm, {}, 1))
    big = float(np.finfo(np.float32).max)
    odd = [[0, 0, 0, 0], [np.nan, 1, 1, 1], [np.inf, -np.inf, 0, 5], [big, -big, big, 5], [1e-38, 0, 0, 5]]
    rows = np.array(odd, dtype=np.float32)
    for turn in range(60):
        model.learn(rows[turn % 5], NAMES, f"app {turn % 3}")
        for said, confidence in model.predict(rows, NAMES):
            assert 0.0 <= confidence <= 1.0
            assert (said is None) == (confidence == 0.0)


@ALL
def test_memory_is_reported_and_grows_with_what_is_learned(algorithm: str) -> None:
    fresh = OnlineClassifier(recipe(algorithm, {}, 1)).memory_bytes
    assert 0 < fresh < taught(algorithm).memory_bytes < 50_000_000


def test_the_forest_stops_growing_at_its_bound() -> None:
    model = OnlineClassifier(recipe("mondrian_forest", {"trees": 2, "max_nodes": 51}, 1))
    rng = np.random.default_rng(4)
    sizes = []
    for i, row in enumerate(rng.uniform(0, 1e6, (1600, 4)).astype(np.float32)):
        model.learn(row, NAMES, f"app {i % 5}")
        if i in (399, 1599):
            sizes.append(model._model[0]._raw_memory_usage)
    assert sizes[1] < 1.5 * sizes[0]


def test_the_version_tells_algorithm_parameters_and_labels_apart() -> None:
    a, b = recipe("naive_bayes", {}, 1), recipe("mondrian_forest", {"trees": 3}, 1)
    assert OnlineClassifier(a).version == f"naive_bayes-{a.digest}+0"
    assert b.digest != recipe("mondrian_forest", {}, 1).digest != recipe("mondrian_forest", {}, 2).digest
    assert recipe("mondrian_forest", {"trees": 10}, 1).digest == recipe("mondrian_forest", {}, 1).digest


@pytest.mark.parametrize(
    ("algorithm", "parameters", "told"),
    [
        ("perceptron", {}, "models.classifier"),
        ("mondrian_forest", {"leaves": 3}, "models.parameters.leaves"),
        ("naive_bayes", {"trees": 3}, "models.parameters.trees"),
        ("mondrian_forest", {"trees": 2.5}, "models.parameters.trees"),
        ("mondrian_forest", {"trees": True}, "models.parameters.trees"),
        ("mondrian_forest", {"trees": 0}, "models.parameters.trees"),
        ("naive_bayes", {"floor": 0.0}, "models.parameters.floor"),
        ("hoeffding_adaptive_tree", {"delta": 2.0}, "models.parameters.delta"),
        ("softmax_regression", {"rate": "fast"}, "models.parameters.rate"),
        ("softmax_regression", {"rate": -1.0}, "models.parameters.rate"),
        ("softmax_regression", {"rate": float("nan")}, "models.parameters.rate"),
    ],
)
def test_settings_errors_name_the_key(algorithm: str, parameters: dict[str, float], told: str) -> None:
    with pytest.raises(SettingsError, match=told.replace(".", r"\.")):
        recipe(algorithm, parameters, 1)


def test_naive_bayes_takes_a_constant_feature_for_the_class_it_fits() -> None:
    model = OnlineClassifier(recipe("naive_bayes", {}, 1))
    rng = np.random.default_rng(3)
    for _ in range(50):
        model.learn(np.array([6, 0], np.float32), ("protocol", "size"), "tcp")
        model.learn(np.array([rng.integers(1, 99), 0], np.float32), ("protocol", "size"), "any")
    ((said, confidence),) = model.predict(np.array([[6, 0]], np.float32), ("protocol", "size"))
    assert said == "tcp"
    assert confidence > 0.8


@ALL
@pytest.mark.parametrize("end", [0, 1])
def test_works_at_the_limits_of_its_parameters(algorithm: str, end: int) -> None:
    costly = {"trees": 20, "max_nodes": 200}
    has = inspect.signature(FACTORIES[algorithm]).parameters
    chosen = {
        n: type(p.default)(min(LIMITS[n][end], costly.get(n, 1e9))) for n, p in has.items() if n != "seed"
    }
    model = OnlineClassifier(recipe(algorithm, chosen, 1))
    features, labels = stream(60)
    for row, name in zip(features, labels, strict=True):
        model.learn(row, NAMES, name)
    assert all(0.0 <= confidence <= 1.0 for _, confidence in model.predict(features, NAMES))
