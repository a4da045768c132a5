from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.flow.study.tune import (
    RUNGS,
    calibrate,
    gains,
    ladder,
    per_class,
    tune,
    universal,
    within,
)
from models.flow.study.walk import MISS, Asked, caught, walk, walk_masks, weighted_f1

pytest.importorskip("sklearn")


def asked(flows: int = 4000, seed: int = 1) -> Asked:
    """Return a fast and a slow tier over two classes: unsure of class 0 the slow one helps, of class 1 it harms."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, flows).astype(np.int32)
    confidence = rng.random(flows).astype(np.float32)
    right = rng.random(flows) < confidence
    fast = np.where(right, label, 1 - label)
    slow_right = np.where(fast == 0, True, rng.random(flows) < 0.3)
    slow = np.where(slow_right, label, 1 - label)
    return Asked(
        label,
        np.stack([fast, slow]).astype(np.int64),
        np.stack([confidence, np.ones(flows)]).astype(np.float32),
        np.stack([np.zeros(flows), np.full(flows, 1000.0)]),
        np.array([1.0, 10.0]),
        5e6,
    )


def small(**change: object) -> Asked:
    """Return four flows: right at once, put right, broken, and one that never gets deeper."""
    told = {
        "label": np.array([0, 0, 0, 0], np.int32),
        "answer": np.array([[0, 1, 0, 1], [0, 0, 1, MISS]]),
        "confidence": np.array([[0.9, 0.2, 0.3, 0.1], [1, 1, 1, 0]], np.float32),
        "at_us": np.array([[0, 0, 0, 0], [50, 60, 70, 5000]], float),
        "row_us": np.array([1.0, 10.0]),
        "wait_us": 5000.0,
    }
    return Asked(**{**told, **change})  # type: ignore[arg-type]


def test_flows_are_answered_by_the_deepest_tier_they_reach() -> None:
    done = walk(small(), [np.array([0.5, 0.5], np.float32)])
    assert done.escalated.tolist() == [[False, True, True, True]]
    assert done.answer.tolist() == [0, 0, 1, 1] and done.tier.tolist() == [0, 1, 1, 0]
    assert done.latency_us.tolist() == [1, 71, 81, 5000]
    assert done.cpu_us.tolist() == [1, 11, 11, 1]
    assert small().deepest().tolist() == [0, 0, 1, 1]
    assert caught(small().label, small().answer[0], done.escalated[0]) == 1.0


def test_a_flow_without_any_answer_is_an_error() -> None:
    never = small(answer=np.array([[MISS, 1, 0, 1], [MISS, 0, 1, MISS]]))
    done = walk_masks(never, [np.ones(4, np.bool_)])
    assert done.answer[0] == MISS and done.latency_us[0] == 5000
    assert weighted_f1(never.label, done.answer, 2) == pytest.approx(2 * 1 / (4 + 1))


def test_weighted_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(1)
    label, answer = rng.integers(0, 4, 300).astype(np.int32), rng.integers(0, 4, 300)
    assert weighted_f1(label, answer, 5) == pytest.approx(f1_score(label, answer, average="weighted"))


def test_gain_counts_what_is_broken_too() -> None:
    assert gains(small(), 0, small().deepest()).tolist() == [0, 1, -1, 0]


def test_thresholds_per_class_hand_on_only_where_it_helps() -> None:
    tuning, testing = asked(seed=1), asked(seed=2)
    f1 = {}
    for method in ("universal", "per_class"):
        tuned = tune(tuning, 2, method)  # type: ignore[arg-type]
        done = walk(testing, tuned.thresholds([0.25]))
        assert done.escalated[0].mean() == pytest.approx(0.25, abs=0.03)
        f1[method] = weighted_f1(testing.label, done.answer, 2)
        if method == "per_class":
            assert (done.escalated[0] & (testing.answer[0] == 1)).sum() < 0.1 * done.escalated[0].sum()
    assert f1["per_class"] > f1["universal"] + 0.03


def test_without_anything_to_gain_confidence_decides() -> None:
    rng = np.random.default_rng(1)
    confidence, answer = rng.random(500), rng.integers(0, 3, 500)
    order = per_class(confidence, answer, np.zeros(500, np.int64), 3)
    assert (order.scores == universal(3).scores).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.integers(0, 2), st.integers(-1, 1)), min_size=1, max_size=120
    )
)
def test_ladders_hold_for_any_answers(rows: list[tuple[float, int, int]]) -> None:
    confidence = np.array([row[0] for row in rows], np.float32)
    answer = np.array([row[1] for row in rows])
    order = per_class(confidence, answer, np.array([row[2] for row in rows]), 3)
    made = ladder(order, confidence, answer)  # checks itself: shares rise, thresholds do not fall
    assert made.shares[0] == 0 and made.shares[-1] == 1
    assert not (confidence < made.at(0.0)[answer]).any() and (confidence < made.at(1.0)[answer]).all()
    before = 0.0
    for share in RUNGS:
        now = (confidence < made.at(share)[answer]).mean()
        assert now >= before
        before = now


def test_shares_come_out_as_asked_for() -> None:
    tuning = asked()
    for method in ("universal", "per_class"):
        tuned = tune(tuning, 2, method)  # type: ignore[arg-type]
        for share in (0.05, 0.3, 0.5, 0.8):
            assert walk(tuning, tuned.thresholds([share])).escalated[0].mean() == pytest.approx(
                share, abs=0.02
            )


def test_three_tiers_are_tuned_together() -> None:
    two = asked()
    right = np.stack([two.answer[0], two.answer[1], two.label])
    three = Asked(
        two.label,
        right.astype(np.int64),
        np.stack([two.confidence[0], two.confidence[0], np.ones(len(two.label))]).astype(np.float32),
        np.stack([two.at_us[0], two.at_us[0], two.at_us[1]]),
        np.array([1.0, 5.0, 10.0]),
        5e6,
    )
    tuned = tune(three, 2, "per_class")
    done = walk(three, tuned.thresholds([0.5, 0.5]))
    assert done.escalated[0].mean() == pytest.approx(0.5, abs=0.03)
    assert done.escalated[1].mean() == pytest.approx(0.25, abs=0.03)
    assert within(three, tuned, [0.5, 0.5], 0.3, "share", 1)[0]
    assert not within(three, tuned, [0.5, 0.5], 0.3, "share", 0)[0]
    kept, spent = within(three, tuned, [0.0, 0.0], 1.5, "cpu")
    assert kept and spent == pytest.approx(1.0)
    assert within(three, tuned, [1.0, 1.0], 0.5, "latency")[0] is False


def test_calibration_makes_confidence_honest() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 3000).astype(np.int32)
    logits = rng.normal(0, 1, (3000, 3))
    logits[np.arange(3000), label] += 1.0
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    boasting = honest**3 / (honest**3).sum(axis=1, keepdims=True)
    made = calibrate(boasting, label)
    told = made.confidence(boasting.astype(np.float32), boasting.argmax(axis=1))
    right = boasting.argmax(axis=1) == label
    assert made.method != "none"
    assert abs(told.mean() - right.mean()) < 0.02 < boasting.max(axis=1).mean() - right.mean()
    assert calibrate(boasting[:10], label[:10]).method == "none"
