"""What the packets of a flow say together."""

from __future__ import annotations

import numpy as np
import pytest

from models.packet.votes import FlowVotes


def rows(*values: tuple[float, ...]) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_class_with_the_largest_product_wins() -> None:
    votes = FlowVotes(8, 60)
    assert votes.add(1, rows((0.6, 0.4)), 0)[0] == 0
    # 0.6 × 0.3 < 0.4 × 0.7; the confidence is that of the geometric means.
    label, confidence = votes.add(1, rows((0.3, 0.7)), 1)
    assert label == 1
    assert confidence == pytest.approx(0.28**0.5 / (0.28**0.5 + 0.18**0.5))


def test_no_single_packet_rules_a_class_out() -> None:
    votes = FlowVotes(8, 60)
    votes.add(1, rows((0.0, 1.0)), 0)
    label, _ = votes.add(1, rows(*[(0.95, 0.05)] * 9), 0)
    assert label == 0


def test_memory_is_bounded_and_idle_flows_go() -> None:
    votes = FlowVotes(2, 10)
    for flow, now_s in ((1, 0), (2, 1), (1, 2), (3, 3)):
        votes.add(flow, rows((0.9, 0.1)), now_s)
    assert (len(votes), votes.evicted) == (2, 1)
    assert votes.take_for_score(2) is None
    votes.forget_idle(12.5)
    assert votes.take_for_score(1) is None
    assert votes.take_for_score(3) == 0
    assert votes.take_for_score(3) is None
    votes.clear()
    assert votes.state_bytes == 0
