"""Tiers that ONNX Runtime runs on one thread: trees, forests, boosted trees, networks, packet models without code of
their own.

Of what scores tree ensembles in batches it was the fastest that is kept up (docs/cascade-study.md), and serving needs
nothing else of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flow.card import TierCard
from models.flow.errors import CascadeError
from models.flow.tiers import Matrix, Tier
from models.packet.errors import ModelError
from models.packet.lstm.network import LstmNetwork
from models.packet.onnx_file import read_graph, unusable_weights
from models.packet.onnx_session import SCALE, new_session
from models.packet.runtime import kernel_for
from schemas.payloads import FIRST_OCTETS

_MOST_PACKETS = 256
"""Packets in one run: more at once need more memory, and are no faster."""


class OnnxTier(Tier):
    """A model with one input, float32 (rows, columns), and the probabilities as its last output."""

    _TYPES: tuple[str, ...] = ("tensor(float)",)

    def __init__(self, card: TierCard, classes: int, data: bytes) -> None:
        """Load the model; raises CascadeError."""
        super().__init__(card, classes)
        try:
            broken = unusable_weights(read_graph(data))
            if broken:
                raise CascadeError(f"weights that are no numbers: {', '.join(broken[:3])}")
            self._session: Any = new_session(data, "cpu", 1)[0]
        except ModelError as error:
            raise CascadeError(str(error)) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs:
            raise CascadeError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, not one of each")
        shape, self.dtype = inputs[0].shape, inputs[0].type
        if self.dtype not in self._TYPES or len(shape) != 2 or isinstance(shape[0], int):
            raise CascadeError(f"its input is a {self.dtype} of {shape}, not float32 (rows, columns)")
        if isinstance(shape[1], int) and shape[1] != len(card.columns):
            raise CascadeError(f"it takes {shape[1]} columns, the cascade has {len(card.columns)} for it")
        self._input, self._outputs = inputs[0].name, [outputs[-1].name]

    def _probabilities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(rows, np.float32)
        out: NDArray[np.float32] = self._session.run(self._outputs, {self._input: rows})[0]
        return out


class PacketTier(OnnxTier):
    """A model of single packets (``models.packet``): rows are the octets, 0 to 255, of one packet of the flow."""

    _TYPES = ("tensor(float)", "tensor(uint8)")

    def __init__(self, card: TierCard, classes: int, data: bytes) -> None:
        """Load the model; raises CascadeError."""
        super().__init__(card, classes, data)
        self._kernel: LstmNetwork | None = None
        if len(card.columns) == FIRST_OCTETS:
            self._kernel = kernel_for(read_graph(data), self._run)

    def _prepared(self, rows: Matrix) -> NDArray[np.uint8]:
        if rows.dtype == np.uint8:
            return np.ascontiguousarray(rows, np.uint8)
        return super()._prepared(rows).clip(0, 255).astype(np.uint8)

    def _probabilities(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        run = self._kernel.predict if self._kernel else self._run
        parts = (rows[i : i + _MOST_PACKETS] for i in range(0, len(rows), _MOST_PACKETS))
        return np.concatenate([run(part) for part in parts])

    def _run(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        # Divided, as the training does it.
        given = np.divide(rows, SCALE, dtype=np.float32) if self.dtype == "tensor(float)" else rows
        out: NDArray[np.float32] = self._session.run(self._outputs, {self._input: given})[0]
        return out
