"""Makes a model that can be served, ``NAME/VERSION/`` with ``model.onnx`` and ``card.json``, of a trained one.

Needs Keras and tf2onnx; what it makes needs neither.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packet.budgets import Topology
from models.packet.card import MODEL_FILE, NAME_PATTERN, ModelCard, write_card
from models.packet.dataset import VECTOR_OCTETS
from models.packet.graph import simplified
from models.packet.hush import hush
from models.packet.training import Weights, load
from schemas.errors import FlowgaugeError, InputError, SettingsError

TOLERANCE = 1e-5
"""Most that an answer of the exported model may differ from Keras's."""
_CHECKED_ROWS = 33


class ExportError(FlowgaugeError):
    """A model that cannot be exported, or that answers otherwise once it is."""


def onnx_of(topology: Topology, weights: Weights, *more: Weights) -> bytes:
    """Return a model as an ONNX file: ``octets``, uint8 (rows, 1480), to ``probabilities``, float32 (rows, classes).

    Args:
        topology: what it is.
        weights: of its layers, in Keras's order.
        more: of further trainings of the same; then the model answers the mean of what all say.

    Raises:
        ExportError: the exported model does not answer as Keras does, within ``TOLERANCE``.
    """
    with hush(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        model = ensemble(topology, (weights, *more))
        octets = np.random.default_rng(1).integers(0, 256, (_CHECKED_ROWS, VECTOR_OCTETS), np.uint8)
        # Asked before it is exported: Keras exports no model that never answered.
        expected = model.predict(octets, verbose=0)
        model.export(str(path), format="onnx", verbose=False)
        data = simplified(path.read_bytes())
    difference = float(np.abs(onnx_answers(data)(octets) - expected).max())
    if not difference <= TOLERANCE:
        raise ExportError(f"{topology}: exported, its answers differ by {difference:.1g} from Keras's")
    return data


def ensemble(topology: Topology, members: Sequence[Weights]) -> Any:
    """Return a ``keras.Model`` that answers the mean of what models of one topology say; of one model, that model."""
    models = [load(topology, weights) for weights in members]
    if len(models) == 1:
        return models[0]
    import keras

    octets = keras.Input(models[0].input_shape[1:], dtype="uint8", name="octets")
    for number, model in enumerate(models):
        model.name = f"member_{number}"
    answers = keras.layers.Average(name="probabilities")([model(octets) for model in models])
    return keras.Model(octets, answers, name=topology.kind)


def onnx_answers(data: bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from octets to probabilities that runs an ONNX file on one thread of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda octets: session.run(None, {name: octets})[0]


def export(
    registry: Path,
    name: str,
    version: str,
    topology: Topology,
    members: Sequence[Weights],
    card: dict[str, Any],
) -> Path:
    """Write ``registry/name/version`` and return it; it appears whole or not at all.

    Args:
        registry: folder of models.
        name: of the model.
        version: of the model.
        topology: what it is.
        members: weights of its layers, in Keras's order; of several trainings, the model is their mean.
        card: what else its card says: classes, data, split, scores, cost.

    Raises:
        SettingsError: a name or version that is no folder's name.
        InputError: that version is there already, or cannot be written.
        ExportError: the exported model does not answer as Keras does.
    """
    for what in (name, version):
        if not re.match(NAME_PATTERN, what):
            raise SettingsError(
                f"{what!r}: a model's name and version are letters, digits, dot, hyphen, underscore"
            )
    target = registry / name / version
    if target.exists():
        raise InputError(f"{target}: is there already; give another --version")
    data = onnx_of(topology, *members)
    found = ModelCard.model_validate(
        {
            "name": name,
            "version": version,
            "kind": topology.kind,
            "parameters": topology.parameters * len(members),
            "topology": str(topology),
            "members": len(members),
            **card,
            "input": {"shape": [VECTOR_OCTETS], "dtype": "uint8"},
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    )
    part = target.with_name(f".{version}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        (part / MODEL_FILE).write_bytes(data)
        write_card(part, found)
        part.rename(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror}") from None
    return target
