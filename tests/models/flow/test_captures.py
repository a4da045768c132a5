from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skl2onnx")

from models.flow.bundle import open_cascade
from models.flow.study.captures import LabelledCapture, from_captures
from schemas.errors import InputError
from streams.config import StreamsSettings
from tests.models.flow import made

LAB = Path(__file__).parents[3] / "infra" / "lab" / "data"


def test_the_demo_capture_becomes_a_cascade(tmp_path: Path) -> None:
    folder, data = made.demo_cascade(tmp_path)
    cascade = open_cascade(folder)
    assert cascade.title == "demo/1" and len(cascade.tiers) == 2 and cascade.classes == data.classes
    fast, deep = data.rows["early", 1], data.rows["early", 5]
    assert len(fast.flows) == data.flows > len(deep.flows) > 0
    # Rows of both depths tell of the same flows' first packets.
    at_fast, at_deep = fast.columns.index("octets_1"), deep.columns.index("octets_1")
    assert (fast.values[deep.flows][:, at_fast] == deep.values[:, at_deep]).all()
    assert set(fast.columns) < set(deep.columns)
    assert (data.reached_us[1] == 0).all() and (
        data.reached(5) == np.isin(np.arange(data.flows), deep.flows)
    ).all()
    tier = cascade.tiers[1]
    assert tier is not None
    answer = cascade.answer(1, deep.values[:, tier.places(deep.columns)])
    assert (answer.classes == data.label[deep.flows]).mean() > 0.9


def captures(*labels: str) -> list[LabelledCapture]:
    return [LabelledCapture(str(LAB / "demo.pcap.gz"), str(i), label) for i, label in enumerate(labels)]


def test_captures_without_two_classes() -> None:
    with pytest.raises(
        InputError, match="1 class with at least 5 flows of 1 groups, out of 1; a cascade needs two"
    ):
        _read(captures("one"))
    with pytest.raises(InputError, match="no label fits a flow"):
        _read([LabelledCapture(str(LAB / "demo.pcap.gz"), "demo", {})])
    with pytest.raises(InputError, match=r"nothing\.pcap"):
        _read([LabelledCapture(str(LAB / "nothing.pcap"), "demo", "one")])


def _read(some: list[LabelledCapture]) -> object:
    return from_captures(
        "x", some, StreamsSettings(), [("early", 1), ("early", 5)], 5, 1, lambda done: None, lambda: False
    )
