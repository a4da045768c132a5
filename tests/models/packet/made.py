"""Small packet models and payload batches made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.packet.card import MODEL_FILE, ModelCard, write_card
from models.packet.runtime import PacketModel, open_model
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS, PayloadBatch
from tests.models.packet.batches import TIME_NS, payload_batch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES = ("dns", "mail", "web")
FLOW = 0xABCD_0000_0000_0001


def graph(
    weights: Any = None, octets: int = FIRST_OCTETS, dtype: str = "float32", final: str = "Softmax"
) -> bytes:
    """Return a linear model: by default class i is the one whose octet 20 + i is the largest."""
    if weights is None:
        weights = np.zeros((octets, len(CLASSES)), np.float32)
        for i in range(len(CLASSES)):
            weights[MASKED_OCTETS + i, i] = 20.0 if dtype == "float32" else 20.0 / 255
    kind = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}[dtype]
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["l"]),
        helper.make_node(final, ["l"], ["p"]),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, ["n", octets])],
            [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", weights.shape[1]])],
            [numpy_helper.from_array(np.asarray(weights, np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    made.ir_version = 8
    data: bytes = made.SerializeToString()
    return data


def model_folder(
    at: Path, name: str = "packets", version: str = "1", data: bytes | None = None, **card: Any
) -> Path:
    """Write a model folder ``at/NAME/VERSION`` and return it."""
    folder = at / name / version
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(graph() if data is None else data)
    told = {"kind": "svm", "parameters": 4440, "classes": CLASSES, **card}
    write_card(folder, ModelCard(name=name, version=version, **told))
    return folder


def model(at: Path, version: str = "1", **how: Any) -> PacketModel:
    """Return a model ready to answer."""
    return open_model(model_folder(at, version=version, **how))


def payloads(
    *packets: tuple[int, int, int],
    sequence: int = 0,
    partition: int = 3,
    sent_time_ns: int = TIME_NS,
    masked: int = MASKED_OCTETS,
) -> PayloadBatch:
    """Return a batch of (flow id, packet number, class) packets, whose octets tell ``graph()`` their class."""
    octets = [bytes(MASKED_OCTETS - masked) + bytes(255 * (c == i) for i in range(3)) for _, _, c in packets]
    return payload_batch(
        *((flow, number, sent) for (flow, number, _), sent in zip(packets, octets, strict=True)),
        sequence=sequence,
        partition=partition,
        sent_time_ns=sent_time_ns,
        masked_octets=masked,
    )
