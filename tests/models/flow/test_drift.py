"""Drift is told from samples of what tiers meet; the controller follows latency and backlog."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from models.flow.card import Histogram, Reference
from models.flow.cascade import Answer
from models.flow.drift import DriftWatch, stability_index
from models.flow.pressure import Pressure
from tests.models.flow.scripted import cascade

REFERENCE = Reference(
    inputs=(Histogram(name="fast_class", edges=(0.5, 1.5), shares=(0.5, 0.25, 0.25)),),
    confidence=Histogram(name="confidence", edges=(0.8,), shares=(0.2, 0.8)),
    answers=(0.5, 0.25, 0.25),
)


def answer(classes: np.ndarray, confidence: float) -> Answer:
    many = len(classes)
    no = np.zeros(many, np.bool_)
    return Answer(classes, np.full(many, confidence, np.float32), no, no, np.zeros(many, np.float32))


def watch(rows: int = 200) -> tuple[DriftWatch, Counter[str]]:
    counts: Counter[str] = Counter()
    card = cascade(reference=(REFERENCE, Reference())).card
    return DriftWatch(card, rows, 0.25, counts), counts


def meet(one: DriftWatch, of: list[int], confidences: list[float]) -> None:
    for _ in range(10):
        for confidence in confidences:
            classes = np.array(of * 5)
            one.on_answers(0, answer(classes, confidence), np.stack([classes, classes], 1).astype(np.float32))


def test_what_looks_as_it_was_learned_is_no_drift() -> None:
    one, counts = watch()
    meet(one, [0, 0, 1, 2], [0.5, 0.9, 0.9, 0.9, 0.9])
    assert not counts and not one.signals
    assert 0 <= one.gauges["drift_inputs.fast"] < 0.05
    assert set(one.gauges) == {"drift_inputs.fast", "drift_confidence.fast", "drift_answers.fast"}


def test_other_inputs_answers_and_confidences_are_told() -> None:
    one, counts = watch()
    meet(one, [2, 2, 2, 1], [0.5])
    assert set(counts) == {"drift_input_fast_fast_class", "drift_confidence_fast", "drift_answers_fast"}
    assert one.gauges["drift_answers.fast"] > 0.25 and "fast_class in tier fast" in one.signals[0]


def test_a_tier_without_a_reference_and_a_watch_turned_off_tell_nothing() -> None:
    one, counts = watch()
    one.on_answers(1, answer(np.array([0] * 500), 0.1), np.zeros((500, 2), np.float32))
    off, none = watch(rows=0)
    meet(off, [2], [0.1])
    assert not counts and not none and not one.gauges


def test_the_stability_index_is_zero_for_equal_shares_and_finite_for_empty_bins() -> None:
    assert stability_index((0.5, 0.5), np.array([50, 50])) == pytest.approx(0)
    assert stability_index((0.5, 0.5), np.array([100, 0])) > 1
    assert np.isfinite(stability_index((1.0, 0.0), np.array([0, 100])))


def test_the_factor_falls_fast_above_the_target_and_rises_with_care_below() -> None:
    one = Pressure(50.0, 100)
    now, factors = 0.0, []
    one.look(now, 0)
    for latency_ms in [60, 60, 45, 45, 10, 10, 10]:
        one.on_answers(np.full(100, latency_ms * 1_000_000, np.int64))
        assert not one.look(now, 0)  # the period is not over
        now += 0.5
        one.look(now, 0)
        factors.append(round(one.factor, 3))
    assert factors == [0.6, 0.36, 0.36, 0.36, 0.41, 0.46, 0.51]


def test_a_backlog_counts_whatever_the_latency_and_silence_lets_it_recover() -> None:
    one = Pressure(50.0, 100)
    one.look(0.0, 0)
    assert one.look(1.0, 101) and one.factor == pytest.approx(0.6)
    assert one.look(2.0, 0) and one.factor == pytest.approx(0.65)
    assert one.latency_ms is None


def test_without_a_target_the_thresholds_stay() -> None:
    one = Pressure(0.0, 1)
    one.on_answers(np.full(10, 10**12, np.int64))
    assert not one.look(9.0, 10**6) and one.factor == 1.0
