"""An LSTM of packets as the kernel runs it: weights laid out for it, and the mean of several of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.packet.lstm.kernel import CHUNK, Floats, Layers, Room, find_first_states, room_for, run
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


class LstmNetwork:
    """Answers packets; one caller at a time."""

    def __init__(
        self, members: Sequence[LstmWeights], steps: int, step_octets: int, threads: int = 1
    ) -> None:
        """Take the weights of one model, or of several whose mean is the answer; ``threads`` share a batch."""
        self._layers = [_laid_out(member, steps, step_octets) for member in members]
        self._rooms: list[list[Room]] = []
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "lstm") if threads > 1 else None
        self._rows = 0

    def predict(self, octets: NDArray[np.uint8]) -> Floats:
        """Return the probability of each class, float32 (rows, classes), of octets, uint8 (rows, 1480)."""
        if len(octets) > self._rows:
            self._rows = len(octets)
            self._rooms = [
                [room_for(layers, self._rows) for layers in self._layers] for _ in range(self._threads)
            ]
        out = np.empty((len(octets), len(self._layers[0].bias)), np.float32)
        if not len(octets):
            return out
        if not (octets.flags.c_contiguous and octets.flags.writeable):
            octets = octets.copy()  # Numba would compile the kernel again for arrays of another kind
        shares = min(self._threads, -(-len(octets) // CHUNK))
        if self._pool is None or shares < 2:
            self._run(0, octets, out)
            return out
        parts = zip(np.array_split(octets, shares), np.array_split(out, shares), strict=True)
        for done in [self._pool.submit(self._run, i, *part) for i, part in enumerate(parts)]:
            done.result()
        return out

    def _run(self, thread: int, octets: NDArray[np.uint8], out: Floats) -> None:
        rooms = self._rooms[thread]
        run(self._layers[0], rooms[0], octets, out)
        for layers, room in zip(self._layers[1:], rooms[1:], strict=True):
            more = np.empty_like(out)
            run(layers, room, octets, more)
            out += more
        if len(rooms) > 1:
            out /= len(rooms)


def _laid_out(weights: LstmWeights, steps: int, step_octets: int) -> Layers:
    units = weights.recurrent.shape[1]
    blocks = -(-units // LANES)
    biases = weights.biases[: GATES * units] + weights.biases[GATES * units :]
    inputs = np.concatenate((biases[:, None], weights.kernel), axis=1)
    first = np.zeros((2, steps + 1, blocks * LANES), np.float32)
    layers = Layers(
        np.ascontiguousarray(weights.table),
        _by_block(inputs, units),
        _by_block(weights.recurrent, units),
        np.ascontiguousarray(weights.dense),
        np.ascontiguousarray(weights.bias),
        first[0],
        first[1],
    )
    find_first_states(layers, room_for(layers, 1), np.zeros(step_octets, np.uint8))
    return layers


def _by_block(weights: Floats, units: int) -> Floats:
    """Return (4 * units, columns) as (blocks, columns * 4 * LANES): see ``tile``."""
    columns, blocks = weights.shape[1], -(-units // LANES)
    filled = np.zeros((GATES, blocks * LANES, columns), np.float32)
    # ONNX has input gate, output gate, forget gate, cell; the kernel has the output gate last.
    filled[:, :units] = weights.reshape(GATES, units, columns)[[0, 2, 3, 1]]
    by_block = filled.reshape(GATES, blocks, LANES, columns).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(by_block.reshape(blocks, -1))
