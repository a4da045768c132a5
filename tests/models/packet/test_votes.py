"""What the packets of a flow say together."""

from __future__ import annotations

import numpy as np
import pytest

from models.packet.votes import FlowVotes


def add(votes: FlowVotes, flow: int, probabilities: np.ndarray, now_s: float) -> tuple[int, float]:
    labels, confidences = votes.add([flow], probabilities, np.zeros(len(probabilities), np.int64), now_s)
    return int(labels[0]), float(confidences[0])


def rows(*values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_class_with_the_largest_product_wins() -> None:
    votes = FlowVotes(8, 60)
    assert add(votes, 1, rows((0.6, 0.4)), 0)[0] == 0
    # 0.6 × 0.3 < 0.4 × 0.7; the confidence is that of the geometric means.
    label, confidence = add(votes, 1, rows((0.3, 0.7)), 1)
    assert label == 1
    assert confidence == pytest.approx(0.28**0.5 / (0.28**0.5 + 0.18**0.5))


def test_no_single_packet_rules_a_class_out() -> None:
    votes = FlowVotes(8, 60)
    add(votes, 1, rows((0.0, 1.0)), 0)
    label, _ = add(votes, 1, rows(*[(0.95, 0.05)] * 9), 0)
    assert label == 0


def test_memory_is_bounded_and_idle_flows_go() -> None:
    votes = FlowVotes(2, 10)
    for flow, now_s in ((1, 0), (2, 1), (1, 2), (3, 3)):
        add(votes, flow, rows((0.9, 0.1)), now_s)
    assert (len(votes), votes.evicted) == (2, 1)
    assert votes.take_for_score(2) is None
    votes.forget_idle(12.5)
    assert votes.take_for_score(1) is None
    assert votes.take_for_score(3) == 0
    assert votes.take_for_score(3) is None
    votes.clear()
    assert votes.state_bytes == 0


def test_flows_of_one_message_are_counted_apart_also_where_there_is_no_room_for_all() -> None:
    votes, alone = FlowVotes(3, 10), FlowVotes(100, 10)
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(4), 200).astype(np.float32)
    index = np.concatenate((np.arange(100), rng.integers(0, 100, 100)))
    labels, confidences = votes.add(list(range(100)), probabilities, index, 0)
    for flow in range(100):
        label, confidence = add(alone, flow, probabilities[index == flow], 0)
        assert label == labels[flow] and confidence == pytest.approx(confidences[flow], rel=1e-4)
    assert (len(votes), votes.evicted) == (3, 97)
    assert votes.take_for_score(99) == labels[99] and votes.take_for_score(0) is None
