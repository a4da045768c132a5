"""One step of an LSTM for a few packets and as many units as fit the registers, as LLVM code that Numba compiles.

All four gates of the units are summed up in registers and turned into the new state there. LLVM would not find this
shape in a loop by itself: the sums would go through memory.

``LANES`` units side by side are a *block*. Its weights stand together: for each input, or each unit before it, four
times ``LANES`` numbers (input gate, forget gate, cell, output gate). *Gates* are a packet's sums of its inputs alone,
block by block in the same order; they do not wait for the step before, so one packet's are made for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

GATES = 4
_WIDE = bool(llvm.get_host_cpu_features().get("avx512f"))
LANES = 16 if _WIDE else 8
"""Units of a block: the floats of a register, of 256 bits where there are no wider ones."""
ROWS = 6 if _WIDE else 3
"""Packets of a tile: their sums, the weights of a gate and the packets' inputs fill the 32 or 16 registers."""
_FLOAT = ir.FloatType()
_MOST = 7.90531110763549805
"""From there on tanh is 1, as far as a float can tell."""
_ABOVE = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
    1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def _vector() -> ir.VectorType:
    return ir.VectorType(_FLOAT, LANES)


def _filled(value: float) -> ir.Constant:
    return ir.Constant(_vector(), [value] * LANES)


def _fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, at one stroke where the processor has an instruction for that."""
    kind = _vector()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    return builder.call(function, [a, b, c])


def _tanh(builder: ir.IRBuilder, x: Any) -> tuple[Any, Any]:
    """Return tanh(x) as a fraction, to a few units of the last place: Eigen's, a Padé approximant fitted to floats."""
    for sign, most in (("<", _MOST), (">", -_MOST)):
        x = builder.select(builder.fcmp_ordered(sign, x, _filled(most)), x, _filled(most))
    square = builder.fmul(x, x)
    above, below = _filled(_ABOVE[0]), _filled(_BELOW[0])
    for factor in _ABOVE[1:]:
        above = _fma(builder, above, square, _filled(factor))
    for factor in _BELOW[1:]:
        below = _fma(builder, below, square, _filled(factor))
    return builder.fmul(above, x), below


def _sigmoid(builder: ir.IRBuilder, x: Any) -> tuple[Any, Any]:
    """Return twice sigmoid(x) as a fraction."""
    above, below = _tanh(builder, builder.fmul(x, _filled(0.5)))
    return builder.fadd(above, below), below


def _new_state(builder: ir.IRBuilder, gates: list[Any], state: Any) -> tuple[Any, Any]:
    """Return (state of the cells, what the units say); each with one division, as they are slow."""
    into, kept, cell, out = gates
    into, into_below = _sigmoid(builder, into)
    kept, kept_below = _sigmoid(builder, kept)
    cell, cell_below = _tanh(builder, cell)
    below = builder.fmul(into_below, cell_below)
    above = builder.fmul(builder.fmul(into, cell), kept_below)
    above = _fma(builder, builder.fmul(state, kept), below, above)
    below = builder.fmul(below, kept_below)
    state = builder.fdiv(above, builder.fadd(below, below))
    out, out_below = _sigmoid(builder, out)
    said, said_below = _tanh(builder, state)
    below = builder.fmul(out_below, said_below)
    return state, builder.fdiv(builder.fmul(out, said), builder.fadd(below, below))


class _Matrix:
    """A two-dimensional array of floats without gaps."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self._builder = builder
        self._data = array.data
        self.columns = cgutils.unpack_tuple(builder, array.shape)[1]

    def _at(self, row: Any, column: Any) -> Any:
        place = self._builder.add(self._builder.mul(row, self.columns), column)
        return self._builder.gep(self._data, [place])

    def spread(self, row: Any, column: Any) -> Any:
        """Return a vector of one number."""
        kind = _vector()
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        none = ir.Constant(kind, ir.Undefined)
        one = self._builder.insert_element(none, self._builder.load(self._at(row, column)), ir.IntType(32)(0))
        return self._builder.shuffle_vector(one, none, lanes)

    # Arrays of NumPy begin at any multiple of four octets.
    def load(self, row: Any, column: Any) -> Any:
        return self._builder.load(self._lanes(row, column), align=4)

    def store(self, row: Any, column: Any, value: Any) -> None:
        self._builder.store(value, self._lanes(row, column), align=4)

    def _lanes(self, row: Any, column: Any) -> Any:
        return self._builder.bitcast(self._at(row, column), _vector().as_pointer())


class _Sums:
    """The sums of a few packets and one block, in registers."""

    def __init__(self, builder: ir.IRBuilder, rows: int) -> None:
        self._builder = builder
        # A single packet's sums would wait for each other: they are made in two halves.
        self._halves = 2 if rows == 1 else 1
        self._slots = [
            [[cgutils.alloca_once(builder, _vector()) for _ in range(GATES)] for _ in range(self._halves)]
            for _ in range(rows)
        ]

    def begin(self, row: int, values: list[Any]) -> None:
        """Set a packet's sums, one for each gate."""
        for half, slots in enumerate(self._slots[row]):
            for slot, value in zip(slots, values, strict=True):
                self._builder.store(_filled(0.0) if half else value, slot)

    def add(
        self, given: _Matrix, rows: list[Any], count: Any, weights: _Matrix, block: Any, skipped: int
    ) -> None:
        """Add what the first ``count`` columns of ``given`` weigh; the first ``skipped`` weights are not for them."""
        builder, index = self._builder, count.type

        def one(at: Any, half: int) -> None:
            place = builder.mul(builder.add(at, index(skipped)), index(GATES * LANES))
            values = [given.spread(row, at) for row in rows]
            for gate in range(GATES):
                weight = weights.load(block, builder.add(place, index(gate * LANES)))
                for slots, value in zip(self._slots, values, strict=True):
                    slot = slots[half][gate]
                    builder.store(_fma(builder, value, weight, builder.load(slot)), slot)

        whole = builder.udiv(count, index(self._halves))
        with cgutils.for_range(builder, whole) as loop:
            for half in range(self._halves):
                one(builder.add(builder.mul(loop.index, index(self._halves)), index(half)), half)
        done = builder.mul(whole, index(self._halves))
        if self._halves > 1:
            with builder.if_then(builder.icmp_unsigned("<", done, count)):
                one(done, 0)

    def total(self, row: int) -> list[Any]:
        """Return a packet's sums, one for each gate."""
        first, *more = [[self._builder.load(slot) for slot in half] for half in self._slots[row]]
        for half in more:
            first = [self._builder.fadd(a, b) for a, b in zip(first, half, strict=True)]
        return first


def _places(builder: ir.IRBuilder, first: Any, rows: int) -> list[Any]:
    return [builder.add(first, first.type(i)) for i in range(rows)]


def _weigh(rows: int, builder: ir.IRBuilder, matrices: list[_Matrix], numbers: list[Any]) -> None:
    inputs, gates, weights = matrices
    first, block = numbers
    index = first.type
    places = _places(builder, first, rows)
    sums = _Sums(builder, rows)
    biases = [weights.load(block, index(gate * LANES)) for gate in range(GATES)]
    for row in range(rows):
        sums.begin(row, biases)
    sums.add(inputs, places, inputs.columns, weights, block, 1)
    column = builder.mul(block, index(GATES * LANES))
    for row, place in enumerate(places):
        for gate, value in enumerate(sums.total(row)):
            gates.store(place, builder.add(column, index(gate * LANES)), value)


def _advance(rows: int, builder: ir.IRBuilder, matrices: list[_Matrix], numbers: list[Any]) -> None:
    gates, before, after, cells, weights = matrices
    first_gates, first, block, units = numbers
    index = first.type
    sums = _Sums(builder, rows)
    column = builder.mul(block, index(GATES * LANES))
    for row, place in enumerate(_places(builder, first_gates, rows)):
        sums.begin(
            row, [gates.load(place, builder.add(column, index(gate * LANES))) for gate in range(GATES)]
        )
    places = _places(builder, first, rows)
    sums.add(before, places, units, weights, block, 0)
    # Side by side the packets would need twice the registers that there are, so one comes after the other.
    kept = cgutils.alloca_once(builder, _vector(), rows * GATES)
    for row in range(rows):
        for gate, value in enumerate(sums.total(row)):
            builder.store(value, builder.gep(kept, [index(row * GATES + gate)]))
    column = builder.mul(block, index(LANES))
    with cgutils.for_range(builder, index(rows)) as loop:
        at = builder.mul(loop.index, index(GATES))
        total = [builder.load(builder.gep(kept, [builder.add(at, index(gate))])) for gate in range(GATES)]
        place = builder.add(first, loop.index)
        state, said = _new_state(builder, total, cells.load(place, column))
        cells.store(place, column, state)
        after.store(place, column, said)


def _written(write: Callable[..., None], rows: int, matrices: tuple[Any, ...], numbers: int) -> Any:
    """Return what an intrinsic returns: the types, and how the code is written."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        given = zip(signature.args, values, strict=True)
        of = [_Matrix(context, builder, *next(given)) for _ in matrices]
        write(rows, builder, of, [value for _, value in given])
        return context.get_dummy_value()

    return types.void(*matrices, *[types.intp] * numbers), code


def _weighing(rows: int) -> Any:
    @intrinsic  # type: ignore[misc]
    def tile(_typing: Any, inputs: Any, gates: Any, weights: Any, first: Any, block: Any) -> Any:
        return _written(_weigh, rows, (inputs, gates, weights), 2)

    return tile


def _advancing(rows: int) -> Any:
    @intrinsic  # type: ignore[misc]
    def tile(
        _typing: Any, gates: Any, before: Any, after: Any, cells: Any, weights: Any,
        first_gates: Any, first: Any, block: Any, units: Any,
    ) -> Any:  # fmt: skip
        return _written(_advance, rows, (gates, before, after, cells, weights), 4)

    return tile


weigh_rows, weigh_row = _weighing(ROWS), _weighing(1)
"""Make the gates of ``ROWS`` packets, or of one, for one block.

Args:
    inputs: float32 (rows, inputs).
    gates: float32 (rows, blocks * 4 * LANES), written.
    weights: float32 (blocks, (1 + inputs) * 4 * LANES); the biases come first.
    first: the first packet, in both.
    block: which units.
"""
advance_rows, advance_row = _advancing(ROWS), _advancing(1)
"""Take ``ROWS`` packets, or one, a step on: the units of one block.

Args:
    gates: float32 (rows, blocks * 4 * LANES).
    before: float32 (rows, blocks * LANES), what the units said in the step before.
    after: as ``before``; what they say now is written there.
    cells: as ``before``; the states of the cells, written over.
    weights: float32 (blocks, units * 4 * LANES).
    first_gates: the first packet, in the gates.
    first: the first packet, in the others.
    block: which units.
    units: how many say something; the others fill up their block.
"""
