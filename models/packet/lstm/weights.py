"""The weights of an LSTM of packets, and how the kernel has them laid out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.packet.lstm.kernel import Floats, Layers, Numbers
from models.packet.lstm.strassen import strassen_weights
from models.packet.lstm.tile import GATES, LANES


@dataclass(frozen=True)
class LstmWeights:
    """The weights of a model as ONNX has them; all float32."""

    table: Floats
    """(256, width): the numbers that stand for an octet."""
    kernel: Floats
    """(4 * units, inputs): of input gate, output gate, forget gate and cell, in this order."""
    recurrent: Floats
    """(4 * units, units)"""
    biases: Floats
    """(8 * units,): of the inputs, and of the units."""
    dense: Floats
    """(units, classes)"""
    bias: Floats
    """(classes,)"""

    @property
    def units(self) -> int:
        """How many units the LSTM has."""
        return self.recurrent.shape[1]

    @property
    def summed_biases(self) -> Floats:
        """(4 * units,): of inputs and units together."""
        return self.biases[: GATES * self.units] + self.biases[GATES * self.units :]


def float_layers(weights: LstmWeights, steps: int) -> Layers:
    """Return weights as they are; where an LSTM is after steps of zeros is not found yet."""
    inputs = np.concatenate((weights.summed_biases[:, None], weights.kernel), axis=1)
    first = first_states(weights.units, steps)
    recurrent = by_block(weights.recurrent, weights.units)
    return Layers(
        np.ascontiguousarray(weights.table),
        by_block(inputs, weights.units),
        recurrent,
        strassen_weights(recurrent, weights.units),
        np.ascontiguousarray(weights.dense),
        np.ascontiguousarray(weights.bias),
        first,
        first.copy(),
    )


def first_states(units: int, steps: int) -> Floats:
    """Return zeros for where an LSTM is after so many steps of zeros."""
    return np.zeros((steps + 1, -(-units // LANES) * LANES), np.float32)


def by_block(weights: Numbers, units: int) -> Numbers:
    """Return (4 * units, columns) as (blocks, columns * 4 * LANES): see ``tile``; the type is kept."""
    columns, blocks = weights.shape[1], -(-units // LANES)
    filled = np.zeros((GATES, blocks * LANES, columns), weights.dtype)
    # ONNX has input gate, output gate, forget gate, cell; the kernel has the output gate last.
    filled[:, :units] = weights.reshape(GATES, units, columns)[[0, 2, 3, 1]]
    by_block = filled.reshape(GATES, blocks, LANES, columns).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(by_block.reshape(blocks, -1))
