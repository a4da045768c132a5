"""Runs an LSTM over packets, from their last step to their first.

Most packets are short, and what stands behind their last octet is zeros. Read from the end, the zeros come first, and
where an LSTM is after so many of them does not depend on the packet: it is looked up. So a packet costs the steps that
it fills.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.packet.lstm.strassen import PRODUCTS, advance_pair, make_left_factors
from models.packet.lstm.tile import (
    GATES,
    LANES,
    ROWS,
    advance_row,
    advance_rows,
    tile_rows,
    weigh_row,
    weigh_rows,
)
from schemas.compiled import compiled, inner

CHUNK = 48
"""Packets that go through the steps side by side: their states stay in the nearest caches."""
_EMBEDDED = 4

Floats = NDArray[np.float32]
Numbers = NDArray[Any]


class Layers(NamedTuple):
    """The weights of a model as the kernel takes them: float32, or short."""

    table: Numbers
    """(256, width): the numbers that stand for an octet; int16 where weights are short."""
    input_weights: Numbers
    """(blocks, …), and so are the next; see ``tile``."""
    unit_weights: Numbers
    strassen: Floats | None
    """The same, see ``strassen_weights``; None where weights are short, as their sums do not fit 16 bits."""
    dense: Floats
    """(units, classes)"""
    bias: Floats
    """(classes,)"""
    first_said: Numbers
    """(steps + 1, blocks * LANES): what the units say after so many steps of zeros; int16 where weights are short."""
    first_cells: Floats
    """As ``first_said``: the states of the cells."""


class Room(NamedTuple):
    """Where a run of the kernel keeps what it needs; one for each thread.

    The first five have a row for each packet of a chunk, or for each step of a single packet.
    """

    inputs: Numbers
    """The numbers that stand for a step's octets, as the table has them; an even number where weights are short."""
    gates: Floats
    said: Numbers
    next_said: Numbers
    cells: Floats
    factors: Floats
    """Left factors of products, see ``strassen``."""
    made: Floats
    """Products."""
    order: NDArray[np.int64]
    """(rows,), of all packets of a run: longest first."""
    filled: NDArray[np.int64]
    """(rows,): steps that each packet fills."""


def room_for(layers: Layers, rows: int, inputs: int) -> Room:
    """Return room for runs of so many packets; ``inputs``: the numbers of a step."""
    padded, side_by_side = layers.first_said.shape[1], max(CHUNK, len(layers.first_said))

    def zeros(width: int, like: Numbers) -> Numbers:
        return np.zeros((side_by_side, width), like.dtype)

    said, cells = layers.first_said, layers.first_cells
    half = 0 if layers.strassen is None else layers.strassen.shape[1] // (GATES * LANES)
    return Room(
        zeros(inputs + inputs % 2 * (said.dtype == np.int16), layers.table), zeros(GATES * padded, cells),
        zeros(padded, said), zeros(padded, said), zeros(padded, cells),
        np.zeros((CHUNK // (2 * ROWS) * PRODUCTS * ROWS, half), np.float32),
        np.zeros((PRODUCTS * ROWS, GATES * LANES), np.float32),
        np.zeros(rows, np.int64), np.zeros(rows, np.int64),
    )  # fmt: skip


@inner
def _weigh(layers: Layers, room: Room, rows: int) -> None:
    for block in range(len(layers.input_weights)):
        row = 0
        while row + tile_rows(layers.input_weights) <= rows:
            weigh_rows(room.inputs, room.gates, layers.input_weights, row, block)
            row += tile_rows(layers.input_weights)
        while row < rows:
            weigh_row(room.inputs, room.gates, layers.input_weights, row, block)
            row += 1


@inner
def _advance_pairs(
    weights: Floats | None, room: Room, said: Numbers, next_said: Numbers, rows: int
) -> tuple[int, int]:
    """Take two tiles and two blocks at a time; return how many packets and blocks have been taken."""
    if weights is None:
        return 0, 0
    pairs, tiles = len(weights) // PRODUCTS, rows // (2 * ROWS)
    if not pairs or not tiles:
        return 0, 0
    for tile in range(tiles):
        make_left_factors(said, room.factors, tile * 2 * ROWS, tile * PRODUCTS * ROWS)
    for pair in range(pairs):
        for tile in range(tiles):
            advance_pair(
                room.gates, room.factors, room.made, next_said, room.cells, weights,
                tile * PRODUCTS * ROWS, tile * 2 * ROWS, pair,
            )  # fmt: skip
    return tiles * 2 * ROWS, pairs * 2


@inner
def _advance(
    layers: Layers, room: Room, said: Numbers, next_said: Numbers, first_gates: int, rows: int, first: bool
) -> None:
    """Take packets a step on; ``first``: of their first, before which no unit has said anything."""
    units = 0 if first else len(layers.dense)
    taken_rows, taken_blocks = 0, 0
    if units and rows > 1:
        taken_rows, taken_blocks = _advance_pairs(layers.strassen, room, said, next_said, rows)
    for block in range(len(layers.unit_weights)):
        row = taken_rows if block < taken_blocks else 0
        while row + tile_rows(layers.unit_weights) <= rows:
            advance_rows(
                room.gates, said, next_said, room.cells, layers.unit_weights,
                first_gates + row, row, block, units,
            )  # fmt: skip
            row += tile_rows(layers.unit_weights)
        while row < rows:
            advance_row(
                room.gates, said, next_said, room.cells, layers.unit_weights,
                first_gates + row, row, block, units,
            )  # fmt: skip
            row += 1


@inner
def _look_up(table: Numbers, octets: NDArray[np.uint8], inputs: Numbers) -> None:
    """Write the numbers that stand for a step's octets."""
    width = table.shape[1]
    if width == 1:
        for k in range(len(octets)):
            inputs[k] = table[octets[k], 0]
    elif width == _EMBEDDED:
        for k in range(len(octets)):
            octet = octets[k]
            at = k * _EMBEDDED
            inputs[at] = table[octet, 0]
            inputs[at + 1] = table[octet, 1]
            inputs[at + 2] = table[octet, 2]
            inputs[at + 3] = table[octet, 3]
    else:
        for k in range(len(octets)):
            for i in range(width):
                inputs[k * width + i] = table[octets[k], i]


@inner
def _begin(layers: Layers, said: Numbers, cells: Floats, row: int, zeros: int) -> None:
    """Put a packet where it is after so many steps of zeros."""
    for unit in range(said.shape[1]):
        said[row, unit] = layers.first_said[zeros, unit]
        cells[row, unit] = layers.first_cells[zeros, unit]


@inner
def _answer(layers: Layers, said: Numbers, out: Floats) -> None:
    """Write the probability of each class."""
    classes = len(layers.bias)
    for c in range(classes):
        out[c] = layers.bias[c]
    for unit in range(len(layers.dense)):
        for c in range(classes):
            out[c] += said[unit] * layers.dense[unit, c]
    most = out[0]
    for c in range(1, classes):
        most = max(most, out[c])
    total = np.float32(0)
    for c in range(classes):
        out[c] = math.exp(out[c] - most)
        total += out[c]
    for c in range(classes):
        out[c] /= total


@inner
def _filled(octets: NDArray[np.uint8], steps: int) -> int:
    """Return up to which step a packet is anything but zeros."""
    step_octets = len(octets) // steps
    for step in range(steps, 0, -1):
        there = np.uint8(0)
        for k in range((step - 1) * step_octets, step * step_octets):
            there |= octets[k]
        if there:
            return step
    return 0


@inner
def _sort(room: Room, rows: int, steps: int) -> None:
    """Order packets by the steps that they fill, most first."""
    at = 0
    # There are so few numbers of steps that looking for each is sooner done than anything clever.
    for step in range(steps, -1, -1):
        for row in range(rows):
            if room.filled[row] == step:
                room.order[at] = row
                at += 1


@inner
def _run_one(layers: Layers, room: Room, octets: NDArray[np.uint8], filled: int, out: Floats) -> None:
    steps = len(layers.first_said) - 1
    step_octets = len(octets) // steps
    said, next_said = room.said, room.next_said
    for step in range(filled):
        _look_up(layers.table, octets[step * step_octets : (step + 1) * step_octets], room.inputs[step])
    _weigh(layers, room, filled)
    _begin(layers, said, room.cells, 0, steps - filled)
    for step in range(filled - 1, -1, -1):
        _advance(layers, room, said, next_said, step, 1, step + 1 == steps)
        said, next_said = next_said, said
    _answer(layers, said[0], out)


@inner
def _run_chunk(
    layers: Layers, room: Room, octets: NDArray[np.uint8], begin: int, end: int, out: Floats
) -> None:
    steps = len(layers.first_said) - 1
    step_octets = octets.shape[1] // steps
    said, next_said = room.said, room.next_said
    rows = 0
    for step in range(steps, -1, -1):
        # Those that end here join the others.
        while begin + rows < end and room.filled[room.order[begin + rows]] == step:
            _begin(layers, said, room.cells, rows, steps - step)
            rows += 1
        if not step or not rows:
            continue
        at = (step - 1) * step_octets
        for row in range(rows):
            packet = octets[room.order[begin + row]]
            _look_up(layers.table, packet[at : at + step_octets], room.inputs[row])
        _weigh(layers, room, rows)
        _advance(layers, room, said, next_said, 0, rows, step == steps)
        said, next_said = next_said, said
    for row in range(rows):
        _answer(layers, said[row], out[room.order[begin + row]])


@compiled
def run(layers: Layers, room: Room, octets: NDArray[np.uint8], out: Floats) -> None:
    """Write the probability of each class, float32 (rows, classes), of packets' octets, uint8 (rows, 1480)."""
    steps = len(layers.first_said) - 1
    rows = len(octets)
    for row in range(rows):
        room.filled[row] = _filled(octets[row], steps)
    if rows == 1:
        _run_one(layers, room, octets[0], room.filled[0], out[0])
        return
    _sort(room, rows, steps)
    for begin in range(0, rows, CHUNK):
        _run_chunk(layers, room, octets, begin, min(begin + CHUNK, rows), out)


@compiled
def find_first_states(layers: Layers, room: Room, zeros: NDArray[np.uint8]) -> None:
    """Find where the LSTM is after each number of steps of ``zeros``; ``first_said[0]`` and its cells are zeros."""
    _look_up(layers.table, zeros, room.inputs[0])
    _weigh(layers, room, 1)
    _begin(layers, room.said, room.cells, 0, 0)
    for step in range(1, len(layers.first_said)):
        _advance(layers, room, room.said, room.next_said, 0, 1, False)
        for unit in range(room.said.shape[1]):
            room.said[0, unit] = layers.first_said[step, unit] = room.next_said[0, unit]
            layers.first_cells[step, unit] = room.cells[0, unit]
