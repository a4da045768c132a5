"""Small packet models and payload batches made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.packet.card import MODEL_FILE, ModelCard, write_card
from models.packet.runtime import PacketModel, open_model
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS, PayloadBatch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES = ("dns", "mail", "web")
TIME_NS = 1_700_000_000_000_000_000
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
    flows = list(dict.fromkeys(flow for flow, _, _ in packets))
    n, m = len(flows), len(packets)
    octets = [bytes(MASKED_OCTETS - masked) + bytes(255 * (c == i) for i in range(3)) for _, _, c in packets]
    columns: dict[str, Any] = {
        "flow_id": np.array(flows, "<u8"),
        "start_ns": np.full(n, TIME_NS - 1000, "<i8"),
        "address_a": np.array([[10, 0, 0, 1, *[0] * 12]] * n, "u1").reshape(n, 16),
        "address_b": np.array([[10, 0, 0, 2, *[0] * 12]] * n, "u1").reshape(n, 16),
        "port_a": np.full(n, 443, "<u2"),
        "port_b": np.full(n, 50000, "<u2"),
        "protocol": np.full(n, 6, "u1"),
        "ip_version": np.full(n, 4, "u1"),
        "first_direction": np.ones(n, "u1"),
        "flow_index": np.array([flows.index(flow) for flow, _, _ in packets], "<u2"),
        "time_ns": TIME_NS + np.arange(m, dtype="<i8"),
        "packet_number": np.array([number for _, number, _ in packets], "<u4"),
        "octets": np.full(m, 60, "<u4"),
        "transport_octets": np.full(m, 20, "<u2"),
        "length": np.array([len(o) for o in octets], "<u2"),
        "direction": np.zeros(m, "u1"),
        "handshake": np.zeros(m, "u1"),
        "payload": np.frombuffer(b"".join(octets), "u1"),
    }
    return PayloadBatch(
        "gate", TIME_NS - 10**9, partition, 8, sequence, sent_time_ns, columns, masked_octets=masked
    )
