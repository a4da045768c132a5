"""Runs a packet model: vectors of octets in, probabilities out. No TensorFlow.

Whatever ONNX Runtime can run is served. The study's LSTMs run on compiled code of our own (``models.packet.lstm``),
which answers a packet at a time sooner, and short packets several times as fast; see docs/performance.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.packet.budgets import STEP_OCTETS, STEPS
from models.packet.card import MODEL_FILE, ModelCard, digest_of, read_card
from models.packet.errors import ModelError, one_line
from models.packet.lstm.kernel import Floats
from models.packet.lstm.network import LstmNetwork
from models.packet.lstm.recognise import lstms_of
from models.packet.onnx_file import Graph, read_graph, unusable_weights
from models.packet.onnx_session import Device, OnnxSession, shape_text
from schemas.payloads import FIRST_OCTETS, MASKED_OCTETS

log = logging.getLogger("flowgauge")

TOLERANCE = 1e-5
"""Most that our own code may answer otherwise than ONNX Runtime."""
SHORT_TOLERANCE = 0.02
"""As ``TOLERANCE``, of weights rounded to 16 bits: some 1e-4 is usual, and this no longer the same model."""
COMPILED = "compiled code"
"""What people call ours, as an engine."""
_BATCH_SIZES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_SMOKE_ROWS = 64
_SUM_TOLERANCE = 1e-3
_TRIES = 3
Predict = Callable[[NDArray[np.uint8]], Floats]


class PacketModel:
    """A packet model, ready to answer. One thread at a time."""

    def __init__(self, card: ModelCard, run: Predict, device: Device, engine: str) -> None:
        """Take what ``open_model`` has checked; ``engine`` tells people what runs it."""
        self.card = card
        self.device = device
        self.engine = engine
        self._run = run
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

    def tune(self, budget_s: float, most_rows: int) -> None:
        """Choose ``batch_rows``: the batch with the most rows a second of those that take ``budget_s`` at most."""
        vectors = smoke_vectors(most_rows + 1)[1:]  # full packets: short ones may cost less
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
        graph = read_graph(data)
        broken = unusable_weights(graph)
        if broken:
            raise ModelError(f"weights that are no numbers: {', '.join(broken[:3])}")
        session = OnnxSession(data, device, threads)
        _check(session, card)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    run, engine = _fastest(graph, session, card, threads)
    return PacketModel(card, run, session.device, engine)


def _fastest(graph: Graph, session: OnnxSession, card: ModelCard, threads: int) -> tuple[Predict, str]:
    """Return what runs a model, and what people call that."""
    if session.device != "cpu":
        return session.predict, "ONNX Runtime"
    if card.arithmetic == "int16":
        if kernel := kernel_for(graph, session.predict, threads, short=True):
            return kernel.predict, f"{COMPILED} in 16 bits"
        log.warning("model %s: 16 bits are too few for its weights: it runs in floats", card.title)
    if kernel := kernel_for(graph, session.predict, threads):
        return kernel.predict, COMPILED
    return session.predict, "ONNX Runtime"


def kernel_for(graph: Graph, wanted: Predict, threads: int = 1, *, short: bool = False) -> LstmNetwork | None:
    """Return our own code for a model if it is an LSTM of the study's, and answers as ``wanted`` does.

    Args:
        graph: the model's.
        wanted: gives its answers.
        threads: that one answer may take.
        short: round weights to 16 bits.
    """
    members = lstms_of(graph, STEP_OCTETS)
    if not members:
        return None
    network = LstmNetwork(members, STEPS, STEP_OCTETS, threads, short)
    vectors = _of_all_lengths(_SMOKE_ROWS)
    answers = wanted(vectors)
    said = network.predict(vectors)
    tolerance = SHORT_TOLERANCE if short else TOLERANCE
    if said.shape == answers.shape and np.abs(said - answers).max() <= tolerance:
        return network
    # Such as one that reads packets from the beginning: nothing is wrong, ONNX Runtime answers it.
    log.debug("an LSTM of another kind than the study's: it runs on ONNX Runtime")
    return None


def _check(session: OnnxSession, card: ModelCard) -> None:
    """Raise ModelError unless the model gives a probability for each class."""
    try:
        answers = session.predict(smoke_vectors(_SMOKE_ROWS))
    except Exception as error:  # its own classes, that share no base
        raise ModelError(f"it does not answer: {one_line(error)}") from None
    if answers.shape != (_SMOKE_ROWS, len(card.classes)):
        raise ModelError(
            f"its answers have the shape {shape_text(answers.shape)}, its card has {len(card.classes)} classes"
        )
    if not np.isfinite(answers).all():
        raise ModelError("its answers are no numbers")
    if answers.min() < 0 or np.abs(answers.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ModelError("its answers are no probabilities: a row does not sum to 1")


def _of_all_lengths(rows: int) -> NDArray[np.uint8]:
    """Return vectors of random octets, from empty ones to full ones."""
    vectors = smoke_vectors(rows)
    ends = np.linspace(0, FIRST_OCTETS, rows).astype(np.int64)
    vectors[np.arange(FIRST_OCTETS) >= ends[:, None]] = 0
    return vectors


def smoke_vectors(rows: int) -> NDArray[np.uint8]:
    """Return vectors of random octets, always the same; the first two are all zeros and all ones."""
    out = np.random.default_rng(1).integers(0, 256, (rows, FIRST_OCTETS), np.uint8)
    out[:1], out[1:2] = 0, 255
    out[:, :MASKED_OCTETS] = 0
    return out
