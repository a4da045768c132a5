"""What a leaf observes gives the splits that River's splitters give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.tree.split_criterion import InfoGainSplitCriterion
from river.tree.splitter import GaussianSplitter

from models.online.observed import Observed

NAMES = ("a", "b", "c")
POINTS, LEAST_SHARE = 10, 0.01

values = st.floats(0, 50, width=32)
row = st.tuples(st.tuples(values, values, st.sampled_from((0.0, 1.0))), st.integers(0, 6), st.integers(1, 4))


@settings(max_examples=200, deadline=None)
@given(st.lists(row, min_size=1, max_size=60))
def test_gains_thresholds_and_sides_are_those_of_river(
    rows: list[tuple[tuple[float, ...], int, int]],
) -> None:
    criterion = InfoGainSplitCriterion(LEAST_SHARE)
    theirs = [GaussianSplitter(POINTS) for _ in NAMES]
    ours = Observed(NAMES)
    classes: dict[int, float] = {}
    for features, code, weight in rows:
        classes[code] = classes.get(code, 0.0) + weight
        ours.update(dict(zip(NAMES, features, strict=True)), code, weight)
        for splitter, value in zip(theirs, features, strict=True):
            splitter.update(value, code, weight)
    gains, thresholds = ours.best_splits(criterion.compute_entropy(classes), LEAST_SHARE, POINTS)
    for i, splitter in enumerate(theirs):
        best = splitter.best_evaluated_split_suggestion(criterion, classes, NAMES[i], True)
        assert gains[i] == pytest.approx(best.merit, abs=1e-9)
        if best.feature is None:
            continue
        at_theirs = criterion.merit_of_split(classes, ours.sides(i, best.split_info))
        assert at_theirs == pytest.approx(best.merit, abs=1e-9)
        sides = splitter._class_dists_from_binary_split(float(thresholds[i]))
        for mine, side in zip(ours.sides(i, float(thresholds[i])), sides, strict=True):
            assert list(mine) == list(side)
            assert mine == pytest.approx(side, abs=1e-9)


def test_one_class_or_one_value_gives_no_split() -> None:
    ours = Observed(NAMES)
    for _ in range(5):
        ours.update(dict.fromkeys(NAMES, 3.0), 1, 1.0)
    gains, _ = ours.best_splits(0.0, LEAST_SHARE, POINTS)
    assert np.all(np.isneginf(gains))


def test_a_row_without_a_feature_is_refused() -> None:
    ours = Observed(NAMES)
    with pytest.raises(KeyError, match="'c'"):
        ours.update({"a": 1.0, "b": 2.0}, 0, 1.0)
