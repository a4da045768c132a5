"""Which exported graphs our own LSTM code takes over, and that others run on ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
keras = pytest.importorskip("keras")
pytest.importorskip("tf2onnx")
pytest.importorskip("onnxruntime")

from models.packet.budgets import Topology  # noqa: E402
from models.packet.export import onnx_of  # noqa: E402
from models.packet.networks import build  # noqa: E402
from models.packet.onnx_file import read_graph  # noqa: E402
from models.packet.onnx_session import OnnxSession  # noqa: E402
from models.packet.runtime import kernel_for, open_model, smoke_vectors  # noqa: E402
from tests.models.packet.made import model_folder  # noqa: E402


def weights(topology: Topology, seed: int = 1) -> list[np.ndarray]:
    """Return weights of which none is zero, biases included."""
    rng = np.random.default_rng(seed)
    shapes = [array.shape for array in build(topology).get_weights()]
    return [rng.normal(0, 0.3, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("topology", "members"),
    [
        (Topology("lstm", (44,), 10), 1),
        (Topology("lstm", (5,), 2), 1),
        (Topology("lstm-embedding", (4, 20), 10), 1),
        (Topology("lstm-embedding", (3, 9), 3), 1),
        (Topology("lstm-embedding", (4, 20), 3), 3),
    ],
    ids=str,
)
def test_the_lstms_of_the_study_run_on_our_own_code(topology: Topology, members: int) -> None:
    data = onnx_of(topology, *[weights(topology, seed) for seed in range(members)])
    session = OnnxSession(data, "cpu", 1)
    kernel = kernel_for(read_graph(data), session.predict)
    assert kernel is not None
    octets = smoke_vectors(100)
    octets[np.arange(1480) >= np.random.default_rng(1).integers(0, 1481, 100)[:, None]] = 0
    assert np.abs(kernel.predict(octets) - session.predict(octets)).max() < 2e-6


def test_a_model_says_what_runs_it(tmp_path: Path) -> None:
    topology = Topology("lstm", (5,), 3)
    data = onnx_of(topology, weights(topology))
    served = open_model(model_folder(tmp_path / "a", data=data))
    assert (served.engine, served.device) == ("compiled code", "cpu")
    rounded = open_model(model_folder(tmp_path / "b", data=data, arithmetic="int16"))
    assert rounded.engine == "compiled code in 16 bits"
    octets = smoke_vectors(50)
    assert 0 < np.abs(rounded.predict(octets) - served.predict(octets)).max() < 1e-3


def test_weights_that_16_bits_cannot_hold_run_in_floats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topology = Topology("lstm", (5,), 3)
    large = [weight * 300 for weight in weights(topology)]
    large[1][0] *= 3000  # one unit drowns the others
    folder = model_folder(tmp_path, data=onnx_of(topology, large), arithmetic="int16")
    served = open_model(folder)
    assert served.engine != "compiled code in 16 bits"
    assert "16 bits are too few for its weights: it runs in floats" in caplog.text


def other_graph(kind: str) -> Any:
    octets = keras.Input((1480,))
    steps = keras.layers.Reshape((40, 37))(keras.layers.Rescaling(1 / 255)(octets))
    if kind == "two layers":
        steps = keras.layers.LSTM(6, return_sequences=True)(steps)
    said = keras.layers.LSTM(6, activation="relu" if kind == "relu" else "tanh")(steps)
    return keras.Model(octets, keras.layers.Dense(3, activation="softmax")(said))


@pytest.mark.parametrize("kind", ["forwards", "two layers", "relu"])
def test_another_lstm_runs_on_onnx_runtime(kind: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    network = other_graph(kind)
    octets = smoke_vectors(9)
    network.predict(octets.astype(np.float32), verbose=0)  # Keras exports no model that never answered
    path = tmp_path / "model.onnx"
    network.export(path, format="onnx", verbose=False)
    data = path.read_bytes()
    session = OnnxSession(data, "cpu", 1)
    assert kernel_for(read_graph(data), session.predict) is None
    served = open_model(model_folder(tmp_path, data=data))
    assert served.engine == "ONNX Runtime"
    assert (served.predict(octets) == session.predict(octets)).all()


@pytest.mark.parametrize("kind", ["svm", "mlp", "cnn"])
def test_what_is_no_lstm_is_left_alone(kind: str) -> None:
    topology = Topology(kind, {"svm": (), "mlp": (4, 3), "cnn": (3, 4)}[kind], 3)
    data = onnx_of(topology, weights(topology))
    assert kernel_for(read_graph(data), OnnxSession(data, "cpu", 1).predict) is None


def test_an_answer_that_differs_is_not_taken_over() -> None:
    topology = Topology("lstm", (5,), 2)
    data = onnx_of(topology, weights(topology))
    session = OnnxSession(data, "cpu", 1)
    assert kernel_for(read_graph(data), lambda octets: session.predict(octets) + np.float32(2e-5)) is None
