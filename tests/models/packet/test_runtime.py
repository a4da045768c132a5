"""Packet models loaded and tried out: what is right answers, what is wrong is refused with a reason."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.packet.card import CARD_FILE, MODEL_FILE, digest_of
from models.packet.errors import ModelError
from models.packet.onnx_file import read_graph, unusable_weights
from models.packet.runtime import open_model, smoke_vectors
from tests.models.packet.made import CLASSES, graph, model_folder


def vectors() -> np.ndarray:
    out = np.zeros((3, 1480), np.uint8)
    out[[0, 1, 2], [22, 20, 21]] = 255
    return out


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_answers_are_probabilities_in_the_order_of_the_classes(tmp_path: Path, dtype: str) -> None:
    model = open_model(model_folder(tmp_path, data=graph(dtype=dtype)))
    said = model.predict(vectors())
    assert said.dtype == np.float32
    assert [model.classes[i] for i in said.argmax(axis=1)] == ["web", "dns", "mail"]
    assert said.sum(axis=1) == pytest.approx(1)


def test_many_packets_are_answered_in_runs_as_one(tmp_path: Path) -> None:
    model = open_model(model_folder(tmp_path))
    many = smoke_vectors(23)
    whole = model.predict(many)
    model.batch_rows = 5
    assert model.predict(many) == pytest.approx(whole, abs=1e-6)


def test_the_batch_is_fitted_to_the_budget(tmp_path: Path) -> None:
    model = open_model(model_folder(tmp_path))
    taken = {1: 100_000, 8: 400_000, 16: 500_000, 32: 1_500_000, 64: 6_000_000}
    model._time_ns = lambda vectors: taken[len(vectors)]  # type: ignore[method-assign]
    model.tune(0.005, 64)
    assert (model.batch_rows, model.row_ns) == (16, 31_250)
    model.tune(0.00045, 64)
    assert model.batch_rows == 8
    model.tune(0.0, 64)
    assert model.batch_rows == 1


def wrong(**how: object) -> bytes:
    return graph(**how)  # type: ignore[arg-type]


def nan_weights() -> bytes:
    weights = np.zeros((1480, 3), np.float32)
    weights[700, 1] = np.nan
    return graph(weights)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no graph"),
        (b"\x00" * 100, "not an ONNX file"),
        (graph()[:-400], "not a whole ONNX file"),
        (graph(octets=1500), r"its input has the shape \(n, 1500\), not \(packets, 1480\)"),
        (graph(dtype="int64"), "not float32 or uint8"),
        (graph(np.zeros((1480, 4))), r"answers have the shape \(64, 4\), its card has 3 classes"),
        (graph(final="Relu"), "a row does not sum to 1"),
        (nan_weights(), "weights that are no numbers: w"),
    ],
)
def test_an_unusable_model_is_refused_with_a_reason(tmp_path: Path, data: bytes, told: str) -> None:
    folder = model_folder(tmp_path, data=data)
    with pytest.raises(ModelError, match=told) as error:
        open_model(folder)
    assert str(folder / MODEL_FILE) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_known_by_its_checksum(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    open_model(folder, sha256=digest_of(folder / MODEL_FILE))
    with pytest.raises(ModelError, match=r"is damaged.*announced with 000000000000"):
        open_model(folder, sha256="0" * 64)
    card = json.loads((folder / CARD_FILE).read_text()) | {"sha256": "1" * 64}
    (folder / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"is damaged.*its card has 111111111111"):
        open_model(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"classes": ["a"]}, "classes"),
        ({"classes": ["a", "b", "a"]}, "a class is listed twice"),
        ({"name": "../../etc"}, "name"),
        ({"parameters": "many"}, "parameters"),
    ],
)
def test_a_wrong_card_is_told_by_its_key(tmp_path: Path, change: dict[str, object], told: str) -> None:
    folder = model_folder(tmp_path)
    card = json.loads((folder / CARD_FILE).read_text()) | change
    (folder / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=told):
        open_model(folder)


def test_no_card_and_no_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / MODEL_FILE).unlink()
    with pytest.raises(ModelError, match="No such file"):
        open_model(folder)
    (folder / CARD_FILE).write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        open_model(folder)


def test_without_a_gpu_the_cpu_answers_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime knows CUDA here")
    caplog.set_level(logging.WARNING, "flowgauge")
    model = open_model(model_folder(tmp_path), device="cuda")
    assert model.device == "cpu"
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA device that onnxruntime can use (onnxruntime-gpu): the model runs on the CPU"
    ]


def test_serving_needs_no_training_library(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    code = (
        "import sys, pathlib; from models.packet.runtime import open_model, smoke_vectors; "
        "import models.packet.worker; "
        f"print(open_model(pathlib.Path({str(folder)!r})).predict(smoke_vectors(2)).shape, "
        "sorted({'tensorflow', 'keras', 'onnx', 'torch', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == f"(2, {len(CLASSES)}) []"


@given(st.binary(max_size=300))
def test_any_bytes_are_an_onnx_file_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        unusable_weights(read_graph(data))


@given(st.integers(0, 18_000), st.integers(0, 255))
def test_any_octet_changed_is_an_onnx_file_or_an_error(at: int, octet: int) -> None:
    data = bytearray(graph())
    data[at % len(data)] = octet
    with contextlib.suppress(ModelError):
        unusable_weights(read_graph(bytes(data)))


def test_answers_are_those_of_keras(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    keras.utils.set_random_seed(1)
    octets = keras.Input((1480,))
    steps = keras.layers.Reshape((40, 37))(octets)
    network = keras.Model(octets, keras.layers.Dense(3, activation="softmax")(keras.layers.LSTM(16)(steps)))
    rows = smoke_vectors(50)
    wanted = network(rows.astype(np.float32) / 255).numpy()
    folder = model_folder(tmp_path)
    network.export(folder / MODEL_FILE, format="onnx", verbose=False)
    assert np.abs(open_model(folder).predict(rows) - wanted).max() < 1e-5
