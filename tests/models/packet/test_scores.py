"""Scores of answers, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.packet.scores import interval, score


def _sure(*answers: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(answers)] * 0.8 + np.float32(0.2 / 3)


def test_scores_by_hand() -> None:
    classes = np.array([0, 0, 0, 1, 1], np.int32)
    flows = np.array([7, 7, 7, 3, 3], np.int64)
    found = score(_sure(0, 0, 1, 1, 2), classes, flows)
    assert found.confusion == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert found.accuracy == pytest.approx(3 / 5)
    # F1 of class 0: 2·2 / (3 + 2); of class 1: 2·1 / (2 + 2); class 2 has no packets.
    assert found.macro_f1 == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert (found.packets, found.flows) == (5, 2)


def test_a_flow_votes_as_its_packets_say_together() -> None:
    # Two lukewarm packets for class 1 do not outvote one that is sure of class 0.
    answers = np.array([[0.98, 0.01, 0.01], [0.4, 0.5, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1]], np.float32)
    found = score(answers, np.array([0, 0, 0, 0], np.int32), np.array([1, 1, 1, 2], np.int64))
    assert found.accuracy == pytest.approx(1 / 4)
    assert found.vote_accuracy == pytest.approx(3 / 4)
    assert found.flow_accuracy == pytest.approx(1 / 2)


def test_intervals_follow_student() -> None:
    assert interval([0.5]) == (0.5, None)
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.30 * 1.0 / 3**0.5)
