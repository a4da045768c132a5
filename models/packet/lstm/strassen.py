"""Strassen's multiplication, for LSTMs so large that little counts but the products of what their units say.

Two tiles of packets, two halves of the units before, and two blocks of units make matrices of two by two matrices,
whose product takes seven multiplications instead of eight. Sums of weights are made once, sums of what units said once
a step for all blocks, and the seven products are summed up in the nearest cache.

V. Strassen, "Gaussian elimination is not optimal", Numerische Mathematik 13 (1969). With

    | a b |     | p q |
    | c d |  ×  | r s |

the products are (a + d)(p + s), (c + d)p, a(q - s), d(r - p), (a + b)s, (c - a)(p + q) and (b - d)(r + s).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from models.packet.lstm.tile import GATES, LANES, ROWS, TANH, Matrix, Sums, new_state, places_from, written
from schemas.compiled import inner

PRODUCTS = 7
FEWEST_UNITS = 96
"""Smaller LSTMs gain nothing: with halves so short, sums cost as much as is saved."""
_MADE_OF = (
    (0, 0, ((0, 1), (3, 1), (4, -1), (6, 1))),
    (0, 1, ((2, 1), (4, 1))),
    (1, 0, ((1, 1), (3, 1))),
    (1, 1, ((0, 1), (1, -1), (2, 1), (5, 1))),
)
"""(which tile, which block, products and their signs): what the product of both matrices is the sum of."""

Floats = NDArray[np.float32]


def strassen_weights(blocks: Floats, units: int) -> Floats:
    """Return the right factors of the products.

    Args:
        blocks: (blocks, units * 4 * LANES), see ``weights.by_block``.
        units: of the LSTM.

    Returns:
        (pairs of blocks * 7, half of the units * 4 * LANES); no pair where the LSTM is too small.
    """
    pairs, half = len(blocks) // 2 if units >= FEWEST_UNITS else 0, -(-units // 2)
    filled = np.zeros((2 * pairs, 2 * half, GATES * LANES), np.float32)
    filled[:, :units] = blocks[: 2 * pairs].reshape(2 * pairs, units, GATES * LANES)
    (p, r), (q, s) = (np.split(filled[i::2], 2, axis=1) for i in range(2))
    factors = np.stack((p + s, p, q - s, r - p, s, p + q, r + s), axis=1)
    return factors.reshape(pairs * PRODUCTS, half * GATES * LANES)


@inner
def _plus(one: Floats, other: Floats, out: Floats) -> None:
    for k in range(len(out)):
        out[k] = one[k] + other[k]


@inner
def _minus(one: Floats, other: Floats, out: Floats) -> None:
    for k in range(len(out)):
        out[k] = one[k] - other[k]


@inner
def _copy(one: Floats, out: Floats) -> None:
    for k in range(len(out)):
        out[k] = one[k]


@inner
def make_left_factors(said: Floats, factors: Floats, first: int, first_factor: int) -> None:
    """Write the left factors of the products of two tiles.

    Args:
        said: (rows, blocks * LANES), what the units said; half a row is one of the matrices' columns.
        factors: (…, half of the units); 7 * ROWS of them are written, those of a product side by side.
        first: the first packet of both tiles.
        first_factor: where the factors begin.
    """
    half = factors.shape[1]
    for row in range(ROWS):
        a, b = said[first + row, :half], said[first + row, half : 2 * half]
        c, d = said[first + ROWS + row, :half], said[first + ROWS + row, half : 2 * half]
        at = first_factor + row
        _plus(a, d, factors[at])
        _plus(c, d, factors[at + ROWS])
        _copy(a, factors[at + 2 * ROWS])
        _copy(d, factors[at + 3 * ROWS])
        _plus(a, b, factors[at + 4 * ROWS])
        _minus(c, a, factors[at + 5 * ROWS])
        _minus(b, d, factors[at + 6 * ROWS])


def _multiply(
    builder: ir.IRBuilder, factors: Matrix, weights: Matrix, made: Matrix, first_factor: Any, pair: Any
) -> None:
    index = pair.type
    first_weights = builder.mul(pair, index(PRODUCTS))
    with cgutils.for_range(builder, index(PRODUCTS)) as loop:
        sums = Sums(builder, ROWS, short=False)
        for row in range(ROWS):
            sums.begin(row)
        begin = builder.mul(loop.index, index(ROWS))
        places = places_from(builder, builder.add(first_factor, begin), ROWS)
        sums.add(factors, places, factors.columns, weights, builder.add(first_weights, loop.index), 0)
        for row, place in enumerate(places_from(builder, begin, ROWS)):
            for gate, value in enumerate(sums.total(row)):
                made.store(place, index(gate * LANES), value)


def _advance(builder: ir.IRBuilder, matrices: list[Matrix], numbers: list[Any]) -> None:
    gates, factors, made, after, cells, weights = matrices
    first_factor, first, pair = numbers
    index = first.type
    _multiply(builder, factors, weights, made, first_factor, pair)

    def total(row: Any, place: Any, block: Any, products: tuple[tuple[int, int], ...], gate: int) -> Any:
        column = builder.add(builder.mul(block, index(GATES * LANES)), index(gate * LANES))
        value = gates.load(place, column)
        for product, sign in products:
            more = made.load(builder.add(row, index(product * ROWS)), index(gate * LANES))
            value = builder.fadd(value, more) if sign > 0 else builder.fsub(value, more)
        return value

    for tile, other, products in _MADE_OF:
        block = builder.add(builder.mul(pair, index(2)), index(other))
        column = builder.mul(block, index(LANES))
        with cgutils.for_range(builder, index(ROWS)) as loop:
            place = builder.add(builder.add(first, index(tile * ROWS)), loop.index)
            sums = [total(loop.index, place, block, products, gate) for gate in range(GATES)]
            state, said = new_state(builder, sums, cells.load(place, column), TANH)
            cells.store(place, column, state)
            after.store_said(place, column, said)


@intrinsic  # type: ignore[misc]
def advance_pair(
    _typing: Any, gates: Any, factors: Any, made: Any, after: Any, cells: Any, weights: Any,
    first_factor: Any, first: Any, pair: Any,
) -> Any:  # fmt: skip
    """Take two tiles of packets a step on: the units of two blocks.

    Args:
        gates: float32 (rows, blocks * 4 * LANES).
        factors: as ``make_left_factors`` has written them.
        made: float32 (7 * ROWS, 4 * LANES), written: the products.
        after: float32 (rows, blocks * LANES), written: what the units say.
        cells: float32, as large; the states of the cells, written over.
        weights: see ``strassen_weights``.
        first_factor: the first of the tiles' factors.
        first: the first packet, in the others.
        pair: which blocks.
    """
    return written(
        lambda _rows, *given: _advance(*given), ROWS, (gates, factors, made, after, cells, weights), 3
    )
