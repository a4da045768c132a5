"""Small cascades made for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")
from sklearn.tree import DecisionTreeClassifier

from models.flow.bundle import write_cascade
from models.flow.card import (
    CascadeCard,
    Ladder,
    Thresholds,
    TierCard,
    Unknown,
    tiers_digest,
)
from models.flow.octets import COLUMNS as OCTETS
from models.flow.study.captures import LabelledCapture, from_captures
from models.flow.study.data import FlowData
from models.flow.study.export import sklearn_onnx
from models.flow.study.make import write
from models.flow.study.plan import Plan
from models.flow.study.results import results
from models.flow.study.run import run
from models.flow.study.train import Settings
from models.packet.build import PROBE
from producers.labels import read_labels
from streams.config import StreamsSettings

LAB = Path(__file__).parents[3] / "infra" / "lab" / "data"
CLASSES = ("dns", "mail", "web")
COLUMNS = {1: ("octets_1", "ttl"), 3: ("octets_1", "octets_2", "octets_3", "ttl")}
"""Of the tiers of ``cascade_folder``, by depth."""


def rows_of(classes: Sequence[int] | NDArray[Any], depth: int, seed: int = 1) -> NDArray[np.float32]:
    """Return (rows, columns) of flows of these classes, as the tier at ``depth`` of ``cascade_folder`` takes them.

    Packet 1 tells dns for sure, but mail and web only by a hint; packet 3 tells them apart.
    """
    rng, of = np.random.default_rng(seed), np.array(classes)
    first = np.where(of == 0, 60.0, 1000.0) + 10 * of + rng.integers(-12, 13, len(of))
    ttl = np.full(len(of), 64.0)
    if depth == 1:
        return np.stack([first, ttl], axis=1).astype(np.float32)
    return np.stack([first, first, 100.0 + 500 * of, ttl], axis=1).astype(np.float32)


def tier(name: str, depth: int, data: bytes, **more: Any) -> TierCard:
    """Return the card of a decision tree over ``COLUMNS`` of a depth."""
    told = {
        "name": name,
        "kind": "decision_tree",
        "representation": "early",
        "depth": depth,
        "columns": COLUMNS.get(depth, ()),
        "classes": tuple(range(len(CLASSES))),
        "file": f"{name}.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return TierCard.model_validate({**told, **more})


def tree(depth: int) -> bytes:
    """Return a decision tree that learned ``rows_of`` a depth."""
    classes = np.tile(np.arange(len(CLASSES)), 100)
    model = DecisionTreeClassifier(max_depth=3, random_state=1).fit(rows_of(classes, depth), classes)
    return sklearn_onnx(model, len(COLUMNS[depth]))


def card(tiers: Sequence[TierCard], name: str = "services", version: str = "1", **more: Any) -> CascadeCard:
    """Return the card of a cascade; half of each tier's flows escalate, those with confidence below 0.9."""
    many = len(tiers) - 1
    ladder = Ladder(
        shares=(0.0, 0.5, 1.0), values=tuple((value,) * len(CLASSES) for value in (0.0, 0.9, 1.01))
    )
    thresholds = Thresholds(
        method="universal", of=tiers_digest(tuple(tiers)), ladders=(ladder,) * many, shares=(0.5,) * many
    )
    told = {
        "name": name,
        "version": version,
        "classes": CLASSES,
        "tiers": tuple(tiers),
        "thresholds": thresholds,
        "unknown": (Unknown(),) * len(tiers),
    }
    return CascadeCard.model_validate({**told, **more})


def cascade_folder(at: Path, name: str = "services", version: str = "1", **more: Any) -> Path:
    """Write a cascade of two decision trees, at packets 1 and 3, to ``at/NAME/VERSION`` and return that."""
    files = {"fast.onnx": tree(1), "slow.onnx": tree(3)}
    tiers = (tier("fast", 1, files["fast.onnx"]), tier("slow", 3, files["slow.onnx"]))
    return write_cascade(at, card(tiers, name, version, **more), files)


def packet_cascade_folder(at: Path, name: str = "services", version: str = "1") -> Path:
    """Write a cascade of a decision tree at packet 1 and the packet model ``graph()`` at packet 4, as above."""
    from tests.models.packet.made import graph

    files = {"fast.onnx": tree(1), "packet@4.onnx": graph()}
    octets = {"kind": "packet", "representation": "payloads", "columns": OCTETS}
    tiers = (tier("fast", 1, files["fast.onnx"]), tier("packet@4", 4, files["packet@4.onnx"], **octets))
    return write_cascade(at, card(tiers, name, version), files)


def demo_cascade(at: Path, name: str = "demo", version: str = "1") -> tuple[Path, FlowData]:
    """Write a cascade that learned the demo's capture to ``at/NAME/VERSION``; return that, and the flows.

    A decision tree after packet 1 and a small forest after packet 5, thresholds per class, half of the flows handed on
    at most: as ``flowgauge study cascade`` makes it, without trying other tiers.
    """
    data = demo_flows()
    plan = Plan(
        models=("decision_tree", "random_forest"),
        depths=(1, 5),
        splits=1,
        by="flow",
        training=Settings(trees=10),
        chain=("decision_tree@1", "random_forest@5"),
        name=name,
        version=version,
    )
    study = run(data, at / ".study", plan, lambda: False, lambda key, done: None)
    assert study is not None
    folder = write(study, at / ".study", results(study))
    (at / name).mkdir(parents=True, exist_ok=True)
    return folder.rename(at / name / version), data


def demo_labels() -> dict[int, str]:
    """Return the labels of the demo's flows by flow id."""
    table = read_labels(str(LAB / "demo.labels.csv"))
    return dict(zip(table.flow_ids(PROBE).tolist(), table.label, strict=True))


def demo_flows(depths: Sequence[int] = (1, 5)) -> FlowData:
    """Return the labelled flows of the demo's capture, with the features of the representation ``early``."""
    captures = [LabelledCapture(str(LAB / "demo.pcap.gz"), "demo", demo_labels())]
    data = from_captures(
        "demo",
        captures,
        StreamsSettings(),
        [("early", depth) for depth in depths],
        10,
        1,
        lambda done: None,
        lambda: False,
    )
    assert data is not None
    return data
