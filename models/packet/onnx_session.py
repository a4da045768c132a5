"""Runs any packet model with ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.packet.errors import ModelError, one_line
from schemas.errors import SettingsError
from schemas.payloads import FIRST_OCTETS

log = logging.getLogger("flowgauge")

Device = Literal["cpu", "cuda"]
SCALE = np.float32(255)


class OnnxSession:
    """A model's graph, ready to answer. One thread at a time."""

    def __init__(self, data: bytes, device: Device, threads: int) -> None:
        """Take an ONNX file.

        Raises:
            ModelError: it does not load, or takes or gives something else than packet models do.
            SettingsError: ONNX Runtime is not installed.
        """
        self._session, self.device = new_session(data, device, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs:
            raise ModelError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
        self._input, self._outputs = inputs[0], [outputs[0].name]
        shape = self._input.shape
        if len(shape) != 2 or shape[1] != FIRST_OCTETS or isinstance(shape[0], int):
            raise ModelError(f"its input has the shape {shape_text(shape)}, not (packets, {FIRST_OCTETS})")
        if self._input.type not in ("tensor(float)", "tensor(uint8)"):
            raise ModelError(f"its input is a {self._input.type}, not float32 or uint8")
        self._scaled = self._input.type == "tensor(float)"
        self._floats = np.empty((0, FIRST_OCTETS), np.float32)

    def predict(self, octets: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, float32 (rows, classes), of octets, uint8 (rows, 1480)."""
        given: NDArray[Any] = octets
        if self._scaled:
            rows = len(octets)
            if rows > len(self._floats):
                self._floats = np.empty((rows, FIRST_OCTETS), np.float32)
            given = self._floats[:rows]
            # Divided, as the training does it: times 1/255 is not the same number.
            np.divide(octets, SCALE, out=given)
        out: NDArray[np.float32] = self._session.run(self._outputs, {self._input.name: given})[0]
        return out


def shape_text(shape: Any) -> str:
    """Return a shape as messages show it."""
    return "(" + ", ".join(str(size) for size in shape) + ")"


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
        raise ModelError(f"ONNX Runtime cannot load it: {one_line(error)}") from None
    found: Device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if found != device:
        log.warning("no CUDA device that onnxruntime can use (onnxruntime-gpu): the model runs on the CPU")
    return session, found
