"""A perceptron and a convolution over the packets of a flow, in Keras; exported, they need no Keras."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.study.watch import Diverged, Fit
from models.flow.unknown import signed_log
from models.packet.hush import hush
from models.packet.training import Interrupted

_EPOCHS, _PATIENCE, _BATCH, _RATE, _DROPOUT = 60, 8, 64, 1e-3, 0.2
_WIDTHS = {"mlp": (128, 64), "cnn": (64,)}
_FILTERS = (32, 64)
_LEAST_SCALE = 1e-3


def train(kind: str, fit: Fit, stop: Callable[[], bool]) -> Any:
    """Return a trained ``mlp`` or ``cnn``, float32 (rows, columns) to (rows, classes).

    Raises:
        Diverged: the loss was no number.
        Interrupted: ``stop`` ended it.
    """
    import keras

    from models.packet.watch import Watch

    keras.utils.set_random_seed(fit.seed)
    model = _network(kind, fit)
    optimizer = keras.optimizers.Adam(_RATE, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    watch = Watch(stop, lambda epoch: None)
    callbacks = [watch]
    if len(fit.tune_label):
        callbacks.append(
            keras.callbacks.EarlyStopping("val_loss", patience=_PATIENCE, restore_best_weights=True)
        )
    model.fit(
        fit.rows,
        fit.label,
        validation_data=(fit.tune_rows, fit.tune_label) if len(fit.tune_label) else None,
        epochs=_EPOCHS,
        batch_size=_BATCH,
        verbose=0,
        callbacks=callbacks,
    )
    if watch.stopped:
        raise Interrupted
    if watch.diverged:
        raise Diverged("the training loss was no number")
    return model


def _network(kind: str, fit: Fit) -> Any:
    import keras
    from keras import layers

    values = signed_log(fit.rows)
    scale = np.maximum(values.std(axis=0), _LEAST_SCALE)
    given = keras.Input((len(fit.columns),), dtype="float32", name="rows")
    # The signed logarithm and the scaling are a part of the model, so that serving gives it rows as they are.
    found = keras.ops.sign(given) * keras.ops.log(1.0 + keras.ops.absolute(given))
    found = (found - values.mean(axis=0)) / scale
    if kind == "cnn":
        found = _convolved(found, fit.columns)
    for width in _WIDTHS[kind]:
        found = layers.Dropout(_DROPOUT)(layers.Dense(width, activation="relu")(found))
    return keras.Model(given, layers.Dense(fit.classes, activation="softmax")(found))


def _convolved(values: Any, columns: tuple[str, ...]) -> Any:
    """Return what two convolutions along the packets make of the columns that packets have, and the others."""
    import keras
    from keras import layers

    sequences, others, packets = by_packet(columns)
    if not sequences or packets < 2:
        return values
    # A packet's columns side by side; where one has none, such as the gap before the first, the first other's.
    order = [
        sequence.get(packet, next(iter(sequence.values())))
        for packet in range(1, packets + 1)
        for sequence in sequences
    ]
    found = keras.ops.take(values, np.array(order), axis=1)
    found = layers.Reshape((packets, len(sequences)))(found)
    for filters in _FILTERS:
        found = layers.Conv1D(filters, 3, padding="same", activation="relu")(found)
    found = layers.Flatten()(found)
    if others:
        found = layers.Concatenate()([found, keras.ops.take(values, np.array(others), axis=1)])
    return found


def by_packet(columns: tuple[str, ...]) -> tuple[list[dict[int, int]], list[int], int]:
    """Return for each sequence of columns ``name_1``, ``name_2``… where each packet's stands; the others; packets."""
    named: dict[str, dict[int, int]] = {}
    others = []
    for place, name in enumerate(columns):
        match = re.fullmatch(r"(.*)_(\d+)", name)
        if match:
            named.setdefault(match[1], {})[int(match[2])] = place
        else:
            others.append(place)
    return list(named.values()), others, max((n for some in named.values() for n in some), default=0)


def onnx_of(model: Any) -> bytes:
    """Return a network as an ONNX file."""
    with hush(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        # Asked before it is exported: Keras exports no model that never answered.
        model.predict(np.zeros((1, model.input_shape[1]), np.float32), verbose=0)
        model.export(str(path), format="onnx", verbose=False)
        return path.read_bytes()


def predict(model: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities, (rows, classes)."""
    found: NDArray[np.float32] = model.predict(rows, batch_size=1024, verbose=0)
    return found
