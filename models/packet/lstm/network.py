"""An LSTM of packets as the kernel runs it, or several whose mean is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from models.packet.lstm.kernel import CHUNK, Floats, Room, find_first_states, room_for, run
from models.packet.lstm.short import short_layers
from models.packet.lstm.weights import LstmWeights, float_layers


class LstmNetwork:
    """Answers packets; one caller at a time."""

    def __init__(
        self,
        members: Sequence[LstmWeights],
        steps: int,
        step_octets: int,
        threads: int = 1,
        short: bool = False,
    ) -> None:
        """Take the weights of one model, or of several whose mean is the answer.

        Args:
            members: of the same classes.
            steps: of a packet.
            step_octets: octets of each.
            threads: share a batch.
            short: weights are rounded to 16 bits, which takes half the time, and some 1e-4 of the answers.
        """
        lay_out = short_layers if short else float_layers
        self._inputs = [member.kernel.shape[1] for member in members]
        self._layers = []
        for member, inputs in zip(members, self._inputs, strict=True):
            layers = lay_out(member, steps)
            find_first_states(layers, room_for(layers, 1, inputs), np.zeros(step_octets, np.uint8))
            self._layers.append(layers)
        self._rooms: list[list[Room]] = []
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "lstm") if threads > 1 else None
        self._rows = 0

    def predict(self, octets: NDArray[np.uint8]) -> Floats:
        """Return the probability of each class, float32 (rows, classes), of octets, uint8 (rows, 1480)."""
        if len(octets) > self._rows:
            self._rows = len(octets)
            self._rooms = [
                [
                    room_for(layers, self._rows, inputs)
                    for layers, inputs in zip(self._layers, self._inputs, strict=True)
                ]
                for _ in range(self._threads)
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
