"""Prequential scores, computed by hand and against River's metrics."""

from __future__ import annotations

import random

import pytest
from river import metrics

from models.online.scores import MAX_GROUPS, OTHER, Confusion, Score, ScoreBoard
from tests.models.online.batches import label
from tests.models.online.test_learner import feed, learner


def test_scores_by_hand() -> None:
    score = Score(window=3)
    for true, said in [("a", None), ("a", "a"), ("b", "a"), ("b", "b"), ("a", "a")]:
        score.add(true, said)
    told = score.summary()
    assert (told["n"], told["accuracy"]) == (5, 3 / 5)
    assert (told["window_n"], told["window_accuracy"]) == (3, 2 / 3)
    # a: 3 true, 3 said, 2 right; b: 2 true, 1 said, 1 right.
    assert told["classes"]["a"] == {
        "n": 3, "predicted": 3, "correct": 2, "precision": 2 / 3, "recall": 2 / 3, "f1": 4 / 6,
    }  # fmt: skip
    assert told["classes"]["b"]["f1"] == 2 / 3
    assert told["macro_f1"] == pytest.approx(2 / 3)
    chance = (3 * 3 + 2 * 1) / 25
    assert told["kappa"] == pytest.approx((3 / 5 - chance) / (1 - chance))


def test_nothing_scored_is_none_and_not_a_number() -> None:
    empty = Confusion()
    assert (empty.accuracy, empty.macro_f1, empty.kappa, empty.per_class()) == (None, None, None, {})


def test_one_class_only_has_no_kappa_beyond_chance() -> None:
    score = Confusion()
    score.add("a", "a")
    assert (score.accuracy, score.macro_f1, score.kappa) == (1.0, 1.0, 0.0)


def test_the_same_as_river_says_overall_and_over_the_window() -> None:
    rng = random.Random(5)
    answers = [(t := rng.choice("abcd"), rng.choice([t, "a", "b", "c", "d"])) for _ in range(500)]
    score = Score(window=100)
    for true, said in answers:
        score.add(true, said)
    told = score.summary()
    for start, prefix in ((0, ""), (400, "window_")):
        theirs = {
            "accuracy": metrics.Accuracy(),
            "macro_f1": metrics.MacroF1(),
            "kappa": metrics.CohenKappa(),
        }
        for name, metric in theirs.items():
            for true, said in answers[start:]:
                metric.update(true, said)
            assert told[prefix + name] == pytest.approx(metric.get()), prefix + name


def test_groups_are_bounded() -> None:
    board = ScoreBoard(window=10)
    for depth in range(MAX_GROUPS + 20):
        board.add(f"early@{depth}", "a", "a")
    told = board.summary()
    assert len(told) == MAX_GROUPS + 1
    assert told[OTHER]["n"] == 20


def test_each_prediction_is_scored_before_its_row_is_learned() -> None:
    model = learner()
    truth = ["a", "b", "a", "a", "b", "a"]
    said = []
    for flow, name in enumerate(truth):
        (record,) = feed(model, [flow])
        said.append(record["label"])
        model.on_label(label(flow, name))
    # All rows are alike, so the class learned most often wins, and the first one learned where they tie.
    assert said == [None, "a", "a", "a", "a", "a"]
    told = model.scores.summary()["early@1"]
    assert (told["n"], told["accuracy"]) == (6, 3 / 6)
    assert told["classes"]["a"]["f1"] == 2 * 3 / (4 + 5)
    assert told["classes"]["b"]["f1"] == 0.0
    assert told["macro_f1"] == (6 / 9) / 2
    # By chance: 4 of 6 are a and 5 of 6 answers say so.
    assert told["kappa"] == pytest.approx((3 / 6 - 20 / 36) / (1 - 20 / 36))


def test_early_rows_are_scored_by_depth_and_flow_rows_are_not() -> None:
    model = learner()
    for flow, depth in ((1, 7), (2, 900)):
        feed(model, [flow], depth=1)
        feed(model, [flow], depth=8)
        feed(model, [flow], representation="flow", depth=depth)
        model.on_label(label(flow, "a"))
    told = model.scores.summary()
    assert {group: score["n"] for group, score in told.items()} == {"early@1": 2, "early@8": 2, "flow": 2}
    assert told["flow"]["accuracy"] == 0.5
