"""``python -m flowgauge.bench.keras_lstm FOLDER``: exports LSTMs of the study's sizes, and times ``keras.predict``.

A process of its own: TensorFlow takes threads and memory that the measurements after it must not share.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from models.packet.card import MODEL_FILE, ModelCard, write_card
from models.packet.runtime import smoke_vectors
from schemas.payloads import FIRST_OCTETS

UNITS = {"lstm_15k": 44, "lstm_300k": 254, "lstm_700k": 398}
"""One layer of so many units and a softmax over ten classes: 14,882, 299,222 and 698,102 parameters."""
TIMED = ("lstm_15k", "lstm_700k")
CLASSES = 10
STEPS = 40
_SECONDS = 5.0


def build(units: int) -> Any:
    """Return an untrained LSTM that reads a packet in 40 steps of 37 octets: weights do not change its speed."""
    import keras

    keras.utils.set_random_seed(1)
    octets = keras.Input((FIRST_OCTETS,), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(octets)
    state = keras.layers.LSTM(units)(keras.layers.Reshape((STEPS, FIRST_OCTETS // STEPS))(scaled))
    return keras.Model(octets, keras.layers.Dense(CLASSES, activation="softmax")(state))


def export(network: Any, name: str, folder: Path) -> None:
    """Write ``folder/NAME/bench`` as a model folder."""
    to = folder / name / "bench"
    to.mkdir(parents=True)
    # Traced once before: Keras does not export a model that was never called.
    network(smoke_vectors(1))
    network.export(to / MODEL_FILE, format="onnx", verbose=False)
    classes = tuple(f"class {i}" for i in range(CLASSES))
    card = {"name": name, "version": "bench", "kind": "lstm", "classes": classes}
    write_card(to, ModelCard.model_validate({**card, "parameters": network.count_params()}))


def predict_rate(network: Any) -> float:
    """Return how many packets a second ``keras.predict`` answers, one at a time, as the study timed it."""
    vectors = smoke_vectors(2)[1:]
    network.predict(vectors, verbose=0)
    done, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < _SECONDS:
        network.predict(vectors, verbose=0)
        done += 1
    return done / took_s


def main(folder: Path) -> dict[str, float]:
    """Export every model; return the rate of ``keras.predict`` by name."""
    rates = {}
    for name, units in UNITS.items():
        network = build(units)
        export(network, name, folder)
        if name in TIMED:
            rates[name] = predict_rate(network)
    return rates


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]))))
