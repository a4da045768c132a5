"""Versions of packet models with fewer bits: written only where they cost next to no accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.packet.card import read_card
from models.packet.dataset import ARRAYS, MANIFEST, TEST, VERSION
from models.packet.errors import ModelError
from models.packet.quantize import quantize_model
from models.packet.runtime import open_model
from schemas.errors import InputError, SettingsError
from tests.models.packet.made import CLASSES, graph, model_folder


def data_set(at: Path, classes: tuple[str, ...] = CLASSES, rows: int = 300, test_rows: int = 200) -> Path:
    """Write a data set whose packets tell ``graph()`` their class; the first ``test_rows`` are for tests."""
    at.mkdir()
    truth = np.arange(rows) % 3
    for name, (dtype, shape) in ARRAYS.items():
        np.save(at / f"{name}.npy", np.zeros((rows, *shape), dtype))
    vectors = np.zeros((rows, 1480), np.uint8)
    vectors[np.arange(rows), 20 + truth] = 255
    np.save(at / "vectors.npy", vectors)
    np.save(at / "classes.npy", truth.astype("<i4"))
    np.save(at / "split_flow.npy", np.where(np.arange(rows) < test_rows, TEST, 0).astype("u1"))
    manifest = {"version": VERSION, "rows": rows, "classes": list(classes), "sources": []}
    (at / MANIFEST).write_text(json.dumps(manifest))
    return at


def test_a_quarter_of_the_size_and_the_same_answers(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "made")
    made = quantize_model(folder, data_set(tmp_path / "data"), "flow", tmp_path / "out", 0.005)
    assert (made.accuracy, made.accuracy_quantized, made.agreement, made.packets) == (1.0, 1.0, 1.0, 200)
    assert made.bytes_quantized < made.bytes / 2.5
    assert made.folder == str(tmp_path / "out" / "packets" / "1-int8")
    assert open_model(Path(made.folder)).card.title == "packets/1-int8"
    assert read_card(Path(made.folder)).scores["int8"]["accuracy"] == 1.0


def lstm(at: Path) -> Path:
    """Write a model folder with an LSTM of the study's."""
    pytest.importorskip("tf2onnx")
    from models.packet.budgets import Topology
    from models.packet.export import onnx_of
    from tests.models.packet.lstm.test_recognise import weights

    topology = Topology("lstm", (9,), 3)
    return model_folder(at, data=onnx_of(topology, weights(topology)))


def test_an_lstm_is_computed_in_16_bits(tmp_path: Path) -> None:
    folder = lstm(tmp_path / "made")
    data = data_set(tmp_path / "data")
    made = quantize_model(folder, data, "flow", tmp_path / "out", 0.005)
    assert made.to == "int16"
    assert (made.accuracy_quantized, made.agreement) == (made.accuracy, 1.0)
    assert made.folder == str(tmp_path / "out" / "packets" / "1-int16")
    served = open_model(Path(made.folder))
    assert (served.engine, served.card.arithmetic) == ("compiled code in 16 bits", "int16")
    assert served.card.scores["int16"]["agreement"] == 1.0
    with pytest.raises(ModelError, match="int16 is for LSTMs that compiled code runs in floats"):
        quantize_model(Path(made.folder), data, "flow", tmp_path / "out", 0.005, "int16")
    assert quantize_model(folder, data, "flow", tmp_path / "out", 1.0, "int8").to == "int8"


def test_16_bits_are_for_lstms_and_other_numbers_for_none(tmp_path: Path) -> None:
    folder, data = model_folder(tmp_path / "made"), data_set(tmp_path / "data")
    with pytest.raises(
        ModelError, match="int16 is for LSTMs that compiled code runs in floats; int8 is for all"
    ):
        quantize_model(folder, data, "flow", tmp_path / "out", 0.005, "int16")
    with pytest.raises(SettingsError, match="--to int4: choose from int8, int16"):
        quantize_model(folder, data, "flow", tmp_path / "out", 0.005, "int4")
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_the_loss_is_too_large(tmp_path: Path) -> None:
    # Weights too small beside the largest one for eight bits: all become zero.
    weights = np.zeros((1480, 3), np.float32)
    for i in range(3):
        weights[20 + i, i] = 20.0
    weights[1000] = 1e5
    folder = model_folder(tmp_path / "made", data=graph(weights))
    made = quantize_model(folder, data_set(tmp_path / "data"), "flow", tmp_path / "out", 0.005)
    assert made.accuracy == 1.0
    assert made.accuracy_quantized < 0.9
    assert made.folder is None
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_cannot_decide_is_told(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "made")
    with pytest.raises(InputError, match="its classes are not those of packets/1"):
        quantize_model(
            folder, data_set(tmp_path / "a", classes=("x", "y", "z")), "flow", tmp_path / "out", 0.1
        )
    with pytest.raises(InputError, match="no test packets in the flow split"):
        quantize_model(folder, data_set(tmp_path / "b", test_rows=0), "flow", tmp_path / "out", 0.1)
