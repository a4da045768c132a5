"""``python -m flowgauge.bench.keras_lstm FOLDER``: exports LSTMs of the study's sizes, and times ``keras.predict``.

A process of its own: TensorFlow takes threads and memory that the measurements after it must not share.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from models.packet.budgets import solve
from models.packet.runtime import smoke_vectors

BUDGETS = {"lstm_15k": 15_000, "lstm_300k": 300_000, "lstm_700k": 700_000}
"""Parameters, to within 2%."""
TIMED = ("lstm_15k", "lstm_700k")
CLASSES = 10
VERSION = "bench"
_SECONDS = 5.0


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
    """Export every model to ``folder/NAME/bench``, untrained, as weights do not change its speed.

    Returns:
        The rate of ``keras.predict`` by name.
    """
    import keras

    from models.packet.export import export
    from models.packet.networks import build

    rates = {}
    for name, budget in BUDGETS.items():
        keras.utils.set_random_seed(1)
        topology = solve("lstm", budget, CLASSES)
        network = build(topology)
        classes = [f"class {i}" for i in range(CLASSES)]
        export(folder, name, VERSION, topology, [network.get_weights()], {"classes": classes})
        if name in TIMED:
            rates[name] = predict_rate(network)
    return rates


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]))))
