"""Drift signals, scores on telemetry, and the bound on the models' memory."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import numpy as np
import pytest

from models.online.agent import ModelAgent
from models.online.classifier import OnlineClassifier
from models.online.classifiers import recipe
from models.online.config import ClassifierName, OnlineSettings
from models.online.learner import OnlineLearner
from models.online.scores import ScoreBoard
from producers.config import BusSettings
from schemas.codec import encode
from tests.models.online.batches import feature_batch, label
from tests.models.online.test_agent import ListSink, agent, give, tick

NAMES = ("size", "gap_ns", "ttl", "late")


def learner(**more: Any) -> OnlineLearner:
    values = {"classifier": "naive_bayes", "representations": ("early",), "drift_sample_rows": 1}
    return OnlineLearner(OnlineSettings(**{**values, **more}))


def teach(
    to: OnlineLearner, flows: range, *, swapped: bool = False, moved: float = 0.0, seed: int = 1
) -> None:
    """Give flows of two classes that differ in size, each with its label at once; ``swapped``: the other's."""
    rng = np.random.default_rng(seed)
    for flow in flows:
        kind = flow % 2
        row = [100.0 * 9**kind + rng.normal(), rng.lognormal(5 + moved), 64, rng.normal()]
        to.on_features(feature_batch([flow], [row], names=NAMES), 0)
        to.on_label(label(flow, f"app {kind ^ swapped}"))


def drifts(to: OnlineLearner) -> set[str]:
    return {name for name in to.counts if name.startswith("drift_")}


def test_a_steady_stream_drifts_nowhere() -> None:
    to = learner()
    teach(to, range(1, 601))
    assert drifts(to) == set()


def test_classes_that_change_places_are_drift_of_the_error() -> None:
    to = learner()
    teach(to, range(1, 401))
    teach(to, range(401, 601), swapped=True)
    assert "drift_error_rose_early" in drifts(to)
    assert not drifts(to) & {f"drift_input_early_{name}" for name in NAMES}
    assert to.drift is not None
    assert any(line == "wrong answers on early rose from 4.1% to 16.7%" for line in to.drift.signals)


def test_a_feature_that_moves_is_drift_of_that_input() -> None:
    to = learner()
    teach(to, range(1, 301))
    teach(to, range(301, 501), moved=4.0, seed=2)
    assert "drift_input_early_gap_ns" in drifts(to)
    assert "drift_input_early_ttl" not in drifts(to)
    # The fourth feature is not among those watched.
    assert to.drift is not None
    assert set(to.drift._inputs["early"]) == {"size", "gap_ns", "ttl", "confidence"}


def test_one_row_in_so_many_is_looked_at_however_they_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    to = learner(drift_sample_rows=10)
    seen: list[float] = []
    assert to.drift is not None

    def look(_: str, name: str, value: float) -> None:
        if name == "size":
            seen.append(value)

    monkeypatch.setattr(to.drift, "_input", look)
    at = 0
    for rows in (1, 3, 25, 1, 70, 2):
        features = [[at + i, 0, 0, 0] for i in range(rows)]
        to.on_features(feature_batch(list(range(at + 1, at + rows + 1)), features, names=NAMES), 0)
        at += rows
    assert seen == [float(n) for n in range(0, at, 10)]


def test_values_that_are_no_numbers_and_other_features_harm_nothing() -> None:
    to = learner()
    for flow in range(1, 300):
        to.on_features(feature_batch([flow], [[np.nan, np.inf, -np.inf, 0]], names=NAMES), 0)
    to.on_features(feature_batch([1000], [[1, 2]], names=("other", "novel")), 0)
    assert to.drift is not None
    assert len(to.drift._inputs["early"]) == 4
    assert drifts(to) == set()


def test_no_drift_is_looked_for_when_it_is_off() -> None:
    to = learner(drift=False)
    teach(to, range(1, 401))
    teach(to, range(401, 501), swapped=True, moved=4.0)
    assert (to.drift, drifts(to)) == (None, set())


def test_drift_goes_on_after_pickling() -> None:
    to = learner()
    teach(to, range(1, 301))
    twin: OnlineLearner = pickle.loads(pickle.dumps(to))
    for one in (to, twin):
        teach(one, range(301, 501), swapped=True, moved=4.0, seed=2)
    assert drifts(twin) == drifts(to) > {"drift_error_rose_early"}
    assert twin.counts == to.counts


def test_drift_is_on_telemetry_and_rarely_on_the_log(caplog: pytest.LogCaptureFixture) -> None:
    to, sink = agent(representations=("early",), drift_sample_rows=1)
    with caplog.at_level(logging.WARNING, logger="flowgauge"):
        teach(to.learner, range(1, 401))
        teach(to.learner, range(401, 601), swapped=True)
        tick(to)
        teach(to.learner, range(601, 801))
        tick(to)
    told = sink.records("telemetry.cost", "CostTelemetry")
    assert told[0]["counters"]["drift_error_rose_early"] >= 1
    assert any(name.startswith("drift_error_") for name in told[1]["counters"])
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("model online: drift: ")
    assert to.learner.drift is not None
    assert to.learner.drift.signals  # for the next line, in a minute


def test_scores_of_late_are_gauges_on_telemetry() -> None:
    to, sink = agent(score_window_labels=4, score_classes=1, representations=("early",))
    for flow, name in enumerate(("dns", "dns", "web", "dns", "dns"), 1):
        give(to, "features.early", feature_batch([flow], [[1, 2, 3]]).encode())
        give(to, "labels", encode("Label", label(flow, name)))
    tick(to)
    gauges = sink.records("telemetry.cost", "CostTelemetry")[0]["gauges"]
    scores = {name: value for name, value in gauges.items() if "early@1" in name}
    # Of the last four answers, all "dns", three were right.
    assert scores == {
        "accuracy.early@1": 0.75,
        "macro_f1.early@1": pytest.approx((6 / 7) / 2),
        "kappa.early@1": 0.0,
        "scored.early@1": 4.0,
        "f1.early@1.dns": pytest.approx(6 / 7),
        "precision.early@1.dns": 0.75,
        "recall.early@1.dns": 1.0,
    }
    assert gauges["model_bytes"] > 0
    for flow in range(6, 10):
        give(to, "features.early", feature_batch([flow], [[1, 2, 3]]).encode())
        give(to, "labels", encode("Label", label(flow, "web")))
    tick(to)
    gauges = sink.records("telemetry.cost", "CostTelemetry")[1]["gauges"]
    assert "f1.early@1.dns" not in gauges  # no longer the most frequent
    assert "recall.early@1.web" in gauges


def test_gauges_without_classes_and_before_any_score() -> None:
    board = ScoreBoard(10)
    assert board.gauges(5) == {}
    board.add("flow", "dns", None)
    assert board.gauges(0) == {
        "accuracy.flow": 0.0,
        "macro_f1.flow": 0.0,
        "kappa.flow": 0.0,
        "scored.flow": 1,
    }


@pytest.mark.parametrize(
    ("algorithm", "limit"),
    [("mondrian_forest", 1 << 17), ("naive_bayes", 1 << 17), ("hoeffding_adaptive_tree", 1 << 16)],
)
def test_a_full_model_goes_on_predicting_and_learns_no_more(
    algorithm: ClassifierName, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = OnlineSettings(
        classifier=algorithm, representations=("early",), max_model_bytes=limit, checkpoint_interval_s=0
    )
    to = ModelAgent(settings, BusSettings(), ListSink())
    rng = np.random.default_rng(1)
    with caplog.at_level(logging.WARNING, logger="flowgauge"):
        for flow in range(1, 1501):
            values = [[10.0 ** rng.uniform(0, 9) for _ in NAMES]]
            to.learner.on_features(feature_batch([flow], values, names=NAMES), 0)
            to.learner.on_label(label(flow, f"app {flow % 40}"))
        tick(to)
        tick(to)
    counts = to.counts()
    assert counts["rows_memory_limit"] > 0
    assert counts["rows_learned"] + counts["rows_memory_limit"] == counts["rows_received"] == 1500
    assert counts["rows_learned"] == to.learner.classifiers["early"].labels_learned
    # A model that says it is full was measured at that moment; it had grown by a fiftieth at most since.
    assert limit <= to.learner.classifiers["early"]._memory_bytes <= 1.2 * limit
    made = to.learner.on_features(feature_batch([9999], [[1, 2, 3, 4]], names=NAMES), 0)
    assert made is not None
    assert made.answers[0][0] is not None
    told = [r.getMessage() for r in caplog.records if "max_model_bytes" in r.getMessage()]
    assert told == [
        "model online: the classifier of early has its share of models.max_model_bytes and learns no more"
    ]


def test_memory_is_not_measured_at_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnlineClassifier(recipe("naive_bayes", {}, 1))
    measured = []

    def memory(_: object) -> int:
        measured.append(model.labels_learned)
        return 1000 + 10 * model.labels_learned

    monkeypatch.setattr("models.online.classifier._memory_bytes", memory)
    full = []
    for _ in range(3000):
        if model.is_full(20_000):
            full.append(model.labels_learned)
        model.labels_learned += 1
    assert full[0] == pytest.approx(1900, rel=0.03)
    assert len([n for n in measured if n < 2000]) < 40
