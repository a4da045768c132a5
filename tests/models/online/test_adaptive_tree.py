"""The adaptive tree answers and grows as River's, and answers where River's fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from river import tree

from models.online.adaptive_tree import AdaptiveTree

SETTINGS: dict[str, Any] = {
    "grace_period": 10, "delta": 0.1, "tau": 0.3, "leaf_prediction": "mc", "max_depth": 40,
    "max_share_to_split": 0.9, "drift_window_threshold": 50, "seed": 1,
}  # fmt: skip


def rows(count: int, changes_at: int) -> Iterator[tuple[dict[str, float], int]]:
    """Yield rows of six features and their classes, which mean something else from a row on."""
    draw = np.random.default_rng(3)
    for i in range(count):
        values = draw.normal(size=6)
        code = int(values[0] > 0) + 2 * int(values[1] > 0.5)
        yield dict(zip("abcdef", values.tolist(), strict=True)), code if i < changes_at else (code + 1) % 4


def test_answers_and_nodes_are_those_of_river() -> None:
    theirs, ours = tree.HoeffdingAdaptiveTreeClassifier(**SETTINGS), AdaptiveTree(**SETTINGS)
    for row, code in rows(1200, changes_at=600):
        expected = {c: p for c, p in theirs.predict_proba_one(row).items() if p}
        assert ours.predict_proba_one(row) == pytest.approx(expected)
        theirs.learn_one(row, code)
        ours.learn_one(row, code)
    assert ours.summary == theirs.summary
    assert ours.summary["n_alternate_trees"] > 0


def test_a_second_tree_with_branches_is_asked_too() -> None:
    model = AdaptiveTree(**SETTINGS)
    other = AdaptiveTree(**SETTINGS)
    for row, code in rows(600, changes_at=600):
        model.learn_one(row, code)
        other.learn_one(row, (code + 1) % 4)
    beside = other._root
    model._root._alternate_tree = beside
    row = dict.fromkeys("abcdef", -1.0)
    assert set(model.predict_proba_one(row)) == {0, 1}
    river = tree.HoeffdingAdaptiveTreeClassifier(**SETTINGS)
    river._root = model._root
    with pytest.raises(AttributeError):
        river.predict_proba_one(row)


def test_an_empty_tree_says_nothing() -> None:
    assert AdaptiveTree(**SETTINGS).predict_proba_one({"a": 1.0}) == {}
