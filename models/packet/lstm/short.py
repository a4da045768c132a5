"""Weights rounded to 16 bits, so that one instruction multiplies and adds twice as many.

Each unit's gate has a quantum of its own, of which its weights are whole multiples; what is weighed are multiples of a
quantum as well, and their sums are exact. A quantum is as small as lets no sum overflow 32 bits, whatever a packet is.
"""

from __future__ import annotations

import numpy as np

from models.packet.lstm.kernel import Floats, Layers, Numbers
from models.packet.lstm.tile import SAID_QUANTUM
from models.packet.lstm.weights import LstmWeights, by_block, first_states

_MOST_SHORT = (1 << 15) - 1
_MOST_SUM = (1 << 31) - 1
_MOST_INPUT = 255 * 16
"""What the largest number that stands for an octet becomes: an octet itself, divided by 255, stays exact."""


def short_layers(weights: LstmWeights, steps: int) -> Layers:
    """Return weights rounded to 16 bits; where an LSTM is after steps of zeros is not found yet."""
    units = weights.units
    input_quantum = max(float(np.abs(weights.table).max()), 1e-30) / _MOST_INPUT
    input_quanta, kernel = _rounded(weights.kernel, _MOST_INPUT)
    unit_quanta, recurrent = _rounded(weights.recurrent, round(1 / SAID_QUANTUM))
    heads = [weights.summed_biases, input_quanta * input_quantum]
    cells = first_states(units, steps)
    return Layers(
        np.rint(weights.table / input_quantum).astype(np.int16),
        _blocks(heads, kernel, units),
        _blocks([unit_quanta * SAID_QUANTUM], recurrent, units),
        None,
        np.ascontiguousarray(weights.dense * SAID_QUANTUM, np.float32),
        np.ascontiguousarray(weights.bias),
        np.zeros(cells.shape, np.int16),
        cells,
    )


def _rounded(weights: Floats, most_given: int) -> tuple[Floats, Numbers]:
    """Return the quantum of each row, and the rows as multiples of it; nothing given is larger than ``most_given``."""
    most_total = _MOST_SUM // most_given - weights.shape[1]  # each may be rounded up by a half
    wide = weights.astype(np.float64)
    quanta = np.maximum(np.abs(wide).max(axis=1) / _MOST_SHORT, np.abs(wide).sum(axis=1) / most_total)
    quanta = np.maximum(quanta, 1e-30)
    return quanta.astype(np.float32), np.rint(wide / quanta[:, None]).astype(np.int16)


def _blocks(heads: list[Floats], rows: Numbers, units: int) -> Numbers:
    """Return floats and then pairs of short weights as int32, block by block."""
    even = np.zeros((len(rows), rows.shape[1] + rows.shape[1] % 2), np.int16)
    even[:, : rows.shape[1]] = rows
    columns = [np.ascontiguousarray(head, np.float32)[:, None].view(np.int32) for head in heads]
    return by_block(np.concatenate((*columns, even.view(np.int32)), axis=1), units)
