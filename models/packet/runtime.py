"""Runs a packet model: vectors of octets in, probabilities out. ONNX Runtime, no TensorFlow.

ONNX Runtime's fused LSTM reaches what the bench asks of a core (docs/performance.md), so there is no
kernel of our own.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.packet.card import MODEL_FILE, ModelCard, digest_of, read_card
from models.packet.errors import ModelError
from models.packet.weights import unusable_weights
from schemas.errors import SettingsError
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS

log = logging.getLogger("flowgauge")

Device = Literal["cpu", "cuda"]
SCALE = np.float32(255)
_BATCH_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_SMOKE_ROWS = 64
_SUM_TOLERANCE = 1e-3
_TRIES = 3


class PacketModel:
    """A packet model, ready to answer. One thread at a time."""

    def __init__(self, card: ModelCard, session: Any, device: Device) -> None:
        """Take a session that ``open_model`` has checked."""
        self.card = card
        self.device = device
        self._session = session
        self._input = session.get_inputs()[0]
        self._outputs = [session.get_outputs()[0].name]
        self._scaled = self._input.type == "tensor(float)"
        self._floats = np.empty((0, FIRST_OCTETS), np.float32)
        self.batch_rows = 256
        """Rows that are answered at once; ``tune`` fits it to the machine."""
        self.row_ns = 0.0
        """What a row takes in such a batch, as ``tune`` found it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the columns of ``predict``."""
        return self.card.classes

    def predict(self, vectors: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, (rows, classes), for (rows, 1480) octets masked and padded."""
        rows = len(vectors)
        if rows <= self.batch_rows:
            return self._run(vectors)
        parts = [self._run(vectors[i : i + self.batch_rows]) for i in range(0, rows, self.batch_rows)]
        return np.concatenate(parts)

    def _run(self, vectors: NDArray[np.uint8]) -> NDArray[np.float32]:
        given: NDArray[Any] = vectors
        if self._scaled:
            rows = len(vectors)
            if rows > len(self._floats):
                self._floats = np.empty((rows, FIRST_OCTETS), np.float32)
            given = self._floats[:rows]
            # Divided, as the training does it: times 1/255 is not the same number.
            np.divide(vectors, SCALE, out=given)
        out: NDArray[np.float32] = self._session.run(self._outputs, {self._input.name: given})[0]
        return out

    def tune(self, budget_s: float, most_rows: int) -> None:
        """Choose ``batch_rows``: the batch with the most rows a second of those that take ``budget_s`` at most."""
        vectors = smoke_vectors(most_rows)
        best_ns, best_rows = float("inf"), 1
        for rows in (size for size in (*_BATCH_SIZES, most_rows) if size <= most_rows):
            took_ns = self._time_ns(vectors[:rows])
            if rows > 1 and took_ns > budget_s * 1e9:
                break
            if took_ns / rows < best_ns:
                best_ns, best_rows = took_ns / rows, rows
        self.batch_rows, self.row_ns = best_rows, best_ns

    def _time_ns(self, vectors: NDArray[np.uint8]) -> int:
        taken = []
        for _ in range(_TRIES):
            began_ns = time.perf_counter_ns()
            self._run(vectors)
            taken.append(time.perf_counter_ns() - began_ns)
        return min(taken)


def open_model(
    folder: Path, device: Device = "cpu", threads: int = 1, sha256: str | None = None
) -> PacketModel:
    """Load a model and try it out.

    Args:
        folder: ``NAME/VERSION/`` with ``model.onnx`` and ``card.json``.
        device: where it runs; without the device it runs on the CPU, and says so.
        threads: CPU threads that one answer may take.
        sha256: what the model file's checksum must be; None: what its card says, if that says any.

    Raises:
        ModelError: it cannot be used; says which model and why.
        SettingsError: ONNX Runtime is not installed.
    """
    card = read_card(folder)
    path = folder / MODEL_FILE
    try:
        actual = digest_of(path)
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    for wanted, whose in ((sha256, "it was announced with"), (card.sha256, "its card has")):
        if wanted and wanted != actual:
            raise ModelError(f"{path}: is damaged: its SHA-256 is {actual[:12]}…, {whose} {wanted[:12]}…")
    try:
        broken = unusable_weights(data)
        if broken:
            raise ModelError(f"weights that are no numbers: {', '.join(broken[:3])}")
        model = PacketModel(card, *new_session(data, device, threads))
        _check(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return model


def new_session(data: bytes, device: Device, threads: int) -> tuple[Any, Device]:
    """Return an inference session, and the device that it runs on; raises ModelError, SettingsError."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise SettingsError("onnxruntime is not installed: pip install 'flowgauge[packet]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    # A thread that waits for work must not take a core from the broker or another worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = ort.InferenceSession(data, options, providers=providers)
    except Exception as error:  # its own classes, that share no base
        raise ModelError(f"ONNX Runtime cannot load it: {_one_line(error)}") from None
    found: Device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if found != device:
        log.warning("no CUDA device that onnxruntime can use (onnxruntime-gpu): the model runs on the CPU")
    return session, found


def _check(model: PacketModel) -> None:
    """Raise ModelError unless the model takes vectors and gives a probability for each class."""
    inputs, outputs = model._session.get_inputs(), model._session.get_outputs()
    if len(inputs) != 1 or not outputs:
        raise ModelError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
    shape = inputs[0].shape
    if len(shape) != 2 or shape[1] != FIRST_OCTETS or isinstance(shape[0], int):
        raise ModelError(f"its input has the shape {_shape(shape)}, not (packets, {FIRST_OCTETS})")
    if inputs[0].type not in ("tensor(float)", "tensor(uint8)"):
        raise ModelError(f"its input is a {inputs[0].type}, not float32 or uint8")
    vectors = smoke_vectors(_SMOKE_ROWS)
    try:
        answers = model.predict(vectors)
    except Exception as error:  # as above
        raise ModelError(f"it does not answer: {_one_line(error)}") from None
    if answers.shape != (_SMOKE_ROWS, len(model.classes)):
        raise ModelError(
            f"its answers have the shape {_shape(answers.shape)}, its card has {len(model.classes)} classes"
        )
    if not np.isfinite(answers).all():
        raise ModelError("its answers are no numbers")
    if answers.min() < 0 or np.abs(answers.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ModelError("its answers are no probabilities: a row does not sum to 1")


def smoke_vectors(rows: int) -> NDArray[np.uint8]:
    """Return vectors of random octets, always the same; the first two are all zeros and all ones."""
    out = np.random.default_rng(1).integers(0, 256, (rows, FIRST_OCTETS), np.uint8)
    out[:1], out[1:2] = 0, 255
    out[:, :MASKED_OCTETS] = 0
    return out


def _shape(shape: Any) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
