"""One step of an LSTM for a few packets and as many units as fit the registers, as LLVM code that Numba compiles.

All four gates of the units are summed up in registers and turned into the new state there. LLVM would not find this
shape in a loop by itself: the sums would go through memory.

``LANES`` units side by side are a *block*. Its weights stand together: for each input, or each unit before it, four
times ``LANES`` numbers (input gate, forget gate, cell, output gate). *Gates* are a packet's sums of its inputs alone,
block by block in the same order; they do not wait for the step before, so one packet's are made for all steps at once.

Weights are floats, or *short*: pairs of 16-bit integers, of which a register holds twice as many and one instruction
multiplies and adds all (``models.packet.lstm.short``). Which of both, an array's type tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

GATES = 4
# Who chooses another processor than this one for Numba says by that what instructions there are not.
_FEATURES = llvm.get_host_cpu_features() if config.CPU_NAME is None and config.CPU_FEATURES is None else {}
_WIDE = bool(_FEATURES.get("avx512f"))
LANES = 16 if _WIDE else 8
"""Units of a block: the floats of a register, of 256 bits where there are no wider ones."""
ROWS = 6 if _WIDE else 3
"""Packets of a tile: their sums, the weights of a gate and the packets' inputs fill the 32 or 16 registers."""
SHORT_ROWS = 5 if _WIDE else 2
"""As ``ROWS``, of short weights: there are the products too before they are added."""
SAID_QUANTUM = 1 / 4096
"""What units say is a multiple of this where weights are short."""
_MULTIPLY_ADD = {
    lanes: name
    for feature, lanes, name in (
        ("avx512bw", 16, "llvm.x86.avx512.pmaddw.d.512"),
        ("avx2", 8, "llvm.x86.avx2.pmadd.wd"),
    )
    if _FEATURES.get(feature)
}
"""The instruction that multiplies pairs of 16-bit integers and adds both products, by the lanes that it has."""
_FLOAT = ir.FloatType()
_INT16, _INT32 = ir.IntType(16), ir.IntType(32)


class _Curve(NamedTuple):
    """A fraction of polynomials of x², times x, which is tanh(x) between ``-most`` and ``most``."""

    most: float
    above: tuple[float, ...]
    """Factors, that of the highest power first."""
    below: tuple[float, ...]


TANH = _Curve(
    most=8.0,
    above=(1.131022653253847e-05, 2.938828318853806e-03, 1.291364202393697e-01, 9.999993622209189e-01),
    below=(2.423841463483150e-07, 2.370285340348628e-04, 2.376383008914367e-02, 4.624674080257725e-01, 1.0),
)
"""To 4e-7, where the best that a float can tell is 1e-7; the least largest error up to ``most``."""
SHORT_TANH = _Curve(
    most=5.5,
    above=(1.558706754982122e-03, 1.1545015419029077e-01, 9.999837330750119e-01),
    below=(5.9242571383939166e-05, 1.7856648956300285e-02, 4.4872840211311865e-01, 1.0),
)
"""To 3e-5, for what is rounded to ``SAID_QUANTUM`` then."""


def _vector(of: ir.Type = _FLOAT) -> ir.VectorType:
    return ir.VectorType(of, LANES)


def _filled(value: float, of: ir.Type = _FLOAT) -> ir.Constant:
    return ir.Constant(_vector(of), [value] * LANES)


def _fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, at one stroke where the processor has an instruction for that."""
    kind = _vector()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    return builder.call(function, [a, b, c])


def _sum_of_products(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """Return, of pairs of 16-bit integers, the sum of both products and ``c``."""
    shorts = ir.VectorType(_INT16, 2 * LANES)
    a, b = builder.bitcast(a, shorts), builder.bitcast(b, shorts)
    if name := _MULTIPLY_ADD.get(LANES):
        kind = ir.FunctionType(_vector(_INT32), [shorts] * 2)
        return builder.add(
            c, builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b])
        )
    for first in range(2):
        lanes = ir.Constant(_vector(_INT32), [first + 2 * lane for lane in range(LANES)])
        none = ir.Constant(shorts, ir.Undefined)
        halves = [builder.sext(builder.shuffle_vector(x, none, lanes), _vector(_INT32)) for x in (a, b)]
        c = builder.add(c, builder.mul(*halves))
    return c


def _rounded(builder: ir.IRBuilder, x: Any) -> Any:
    """Return the nearest 16-bit integers."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_vector(), [_vector()]), f"llvm.nearbyint.v{LANES}f32"
    )
    whole = builder.fptosi(builder.call(function, [x]), _vector(_INT32))
    return builder.trunc(whole, _vector(_INT16))


def _tanh(builder: ir.IRBuilder, x: Any, curve: _Curve) -> tuple[Any, Any]:
    """Return tanh(x) as a fraction."""
    for sign, most in (("<", curve.most), (">", -curve.most)):
        x = builder.select(builder.fcmp_ordered(sign, x, _filled(most)), x, _filled(most))
    square = builder.fmul(x, x)
    above, below = _filled(curve.above[0]), _filled(curve.below[0])
    for factor in curve.above[1:]:
        above = _fma(builder, above, square, _filled(factor))
    for factor in curve.below[1:]:
        below = _fma(builder, below, square, _filled(factor))
    return builder.fmul(above, x), below


def _sigmoid(builder: ir.IRBuilder, x: Any, curve: _Curve) -> tuple[Any, Any]:
    """Return twice sigmoid(x) as a fraction."""
    above, below = _tanh(builder, builder.fmul(x, _filled(0.5)), curve)
    return builder.fadd(above, below), below


def new_state(builder: ir.IRBuilder, gates: list[Any], state: Any, curve: _Curve) -> tuple[Any, Any]:
    """Return (state of the cells, what the units say); each with one division, as they are slow."""
    into, kept, cell, out = gates
    into, into_below = _sigmoid(builder, into, curve)
    kept, kept_below = _sigmoid(builder, kept, curve)
    cell, cell_below = _tanh(builder, cell, curve)
    below = builder.fmul(into_below, cell_below)
    above = builder.fmul(builder.fmul(into, cell), kept_below)
    above = _fma(builder, builder.fmul(state, kept), below, above)
    below = builder.fmul(below, kept_below)
    state = builder.fdiv(above, builder.fadd(below, below))
    out, out_below = _sigmoid(builder, out, curve)
    said, said_below = _tanh(builder, state, curve)
    below = builder.fmul(out_below, said_below)
    return state, builder.fdiv(builder.fmul(out, said), builder.fadd(below, below))


class Matrix:
    """A two-dimensional array without gaps; of 16-bit integers, a column is a pair of them."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self._builder = builder
        self.columns = cgutils.unpack_tuple(builder, array.shape)[1]
        self.short = kind.dtype in (types.int16, types.int32)
        """Whether weights are short."""
        self._of = _INT32 if self.short else _FLOAT
        self._data = builder.bitcast(array.data, self._of.as_pointer())
        if kind.dtype == types.int16:
            self.columns = builder.udiv(self.columns, self.columns.type(2))

    def _at(self, row: Any, column: Any) -> Any:
        place = self._builder.add(self._builder.mul(row, self.columns), column)
        return self._builder.gep(self._data, [place])

    def spread(self, row: Any, column: Any) -> Any:
        """Return a vector of one number, or of one pair."""
        kind = _vector(self._of)
        lanes = ir.Constant(_vector(_INT32), [0] * LANES)
        none = ir.Constant(kind, ir.Undefined)
        # Arrays of NumPy begin at any multiple of what they are of.
        number = self._builder.load(self._at(row, column), align=2)
        one = self._builder.insert_element(none, number, _INT32(0))
        return self._builder.shuffle_vector(one, none, lanes)

    def load(self, row: Any, column: Any) -> Any:
        """Return ``LANES`` numbers, or pairs."""
        return self._builder.load(self._lanes(row, column, self._of), align=4)

    def load_floats(self, row: Any, column: Any) -> Any:
        """Return ``LANES`` floats, which short weights have among them."""
        return self._builder.load(self._lanes(row, column, _FLOAT), align=4)

    def store(self, row: Any, column: Any, value: Any) -> None:
        """Write ``LANES`` floats."""
        self._builder.store(value, self._lanes(row, column, _FLOAT), align=4)

    def store_said(self, row: Any, column: Any, value: Any) -> None:
        """Write what ``LANES`` units say; ``column`` is the first one's."""
        builder = self._builder
        if not self.short:
            self.store(row, column, value)
            return
        value = _rounded(builder, builder.fmul(value, _filled(1 / SAID_QUANTUM)))
        place = self._at(row, builder.udiv(column, column.type(2)))
        builder.store(value, builder.bitcast(place, _vector(_INT16).as_pointer()), align=2)

    def _lanes(self, row: Any, column: Any, of: ir.Type) -> Any:
        return self._builder.bitcast(self._at(row, column), _vector(of).as_pointer())


class Sums:
    """The sums of a few packets and one block, in registers: floats, or integers of short weights."""

    def __init__(self, builder: ir.IRBuilder, rows: int, short: bool) -> None:
        self._builder, self._of = builder, _INT32 if short else _FLOAT
        self._short = short
        # A single packet's sums would wait for each other: they are made in two halves.
        self._halves = 2 if rows == 1 else 1
        self._slots = [
            [
                [cgutils.alloca_once(builder, _vector(self._of)) for _ in range(GATES)]
                for _ in range(self._halves)
            ]
            for _ in range(rows)
        ]

    def begin(self, row: int, values: list[Any] | None = None) -> None:
        """Set a packet's sums, one for each gate; to zero without values."""
        values = values or [_filled(0, self._of)] * GATES
        for half, slots in enumerate(self._slots[row]):
            for slot, value in zip(slots, values, strict=True):
                self._builder.store(_filled(0, self._of) if half else value, slot)

    def add(
        self, given: Matrix, rows: list[Any], count: Any, weights: Matrix, block: Any, skipped: int
    ) -> None:
        """Add what the first ``count`` columns of ``given`` weigh; the first ``skipped`` weights are not for them."""
        builder, index = self._builder, count.type
        product = _sum_of_products if self._short else _fma

        def one(at: Any, half: int) -> None:
            place = builder.mul(builder.add(at, index(skipped)), index(GATES * LANES))
            values = [given.spread(row, at) for row in rows]
            for gate in range(GATES):
                weight = weights.load(block, builder.add(place, index(gate * LANES)))
                for slots, value in zip(self._slots, values, strict=True):
                    slot = slots[half][gate]
                    builder.store(product(builder, value, weight, builder.load(slot)), slot)

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
        plus = self._builder.add if self._short else self._builder.fadd
        for half in more:
            first = [plus(a, b) for a, b in zip(first, half, strict=True)]
        return first


def _unscaled(
    builder: ir.IRBuilder, sums: list[Any], weights: Matrix, block: Any, at: int, more: list[Any]
) -> list[Any]:
    """Return sums of short weights as floats, ``more`` added; ``at``: where the weights have their quanta."""
    index = block.type
    floats = []
    for gate, (whole, other) in enumerate(zip(sums, more, strict=True)):
        quanta = weights.load_floats(block, index((at * GATES + gate) * LANES))
        floats.append(_fma(builder, builder.sitofp(whole, _vector()), quanta, other))
    return floats


def places_from(builder: ir.IRBuilder, first: Any, rows: int) -> list[Any]:
    """Return a row and those behind it."""
    return [builder.add(first, first.type(i)) for i in range(rows)]


def _weigh(rows: int, builder: ir.IRBuilder, matrices: list[Matrix], numbers: list[Any]) -> None:
    inputs, gates, weights = matrices
    first, block = numbers
    index = first.type
    places = places_from(builder, first, rows)
    sums = Sums(builder, rows, weights.short)
    biases = [weights.load_floats(block, index(gate * LANES)) for gate in range(GATES)]
    for row in range(rows):
        sums.begin(row, None if weights.short else biases)
    sums.add(inputs, places, inputs.columns, weights, block, 2 if weights.short else 1)
    column = builder.mul(block, index(GATES * LANES))
    for row, place in enumerate(places):
        total = sums.total(row)
        if weights.short:
            total = _unscaled(builder, total, weights, block, 1, biases)
        for gate, value in enumerate(total):
            gates.store(place, builder.add(column, index(gate * LANES)), value)


def _advance(rows: int, builder: ir.IRBuilder, matrices: list[Matrix], numbers: list[Any]) -> None:
    gates, before, after, cells, weights = matrices
    first_gates, first, block, units = numbers
    index = first.type
    sums = Sums(builder, rows, weights.short)
    column = builder.mul(block, index(GATES * LANES))

    def weighed(row: int) -> list[Any]:
        place = builder.add(first_gates, index(row))
        return [gates.load(place, builder.add(column, index(gate * LANES))) for gate in range(GATES)]

    for row in range(rows):
        sums.begin(row, None if weights.short else weighed(row))
    if weights.short:
        units = builder.udiv(builder.add(units, index(1)), index(2))
    sums.add(before, places_from(builder, first, rows), units, weights, block, 1 if weights.short else 0)
    # Side by side the packets would need twice the registers that there are, so one comes after the other.
    kept = cgutils.alloca_once(builder, _vector(), rows * GATES)
    for row in range(rows):
        total = sums.total(row)
        if weights.short:
            total = _unscaled(builder, total, weights, block, 0, weighed(row))
        for gate, value in enumerate(total):
            builder.store(value, builder.gep(kept, [index(row * GATES + gate)]))
    column, curve = builder.mul(block, index(LANES)), SHORT_TANH if weights.short else TANH
    with cgutils.for_range(builder, index(rows)) as loop:
        at = builder.mul(loop.index, index(GATES))
        total = [builder.load(builder.gep(kept, [builder.add(at, index(gate))])) for gate in range(GATES)]
        place = builder.add(first, loop.index)
        state, said = new_state(builder, total, cells.load(place, column), curve)
        cells.store(place, column, state)
        after.store_said(place, column, said)


def written(write: Callable[..., None], rows: int, matrices: tuple[Any, ...], numbers: int) -> Any:
    """Return what an intrinsic returns: the types, and how the code is written."""

    def code(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        given = zip(signature.args, values, strict=True)
        of = [Matrix(context, builder, *next(given)) for _ in matrices]
        write(rows, builder, of, [value for _, value in given])
        return context.get_dummy_value()

    return types.void(*matrices, *[types.intp] * numbers), code


def _rows(weights: Any, several: bool) -> int:
    if not several:
        return 1
    return SHORT_ROWS if weights.dtype == types.int32 else ROWS


def _weighing(several: bool) -> Any:
    @intrinsic  # type: ignore[misc]
    def tile(_typing: Any, inputs: Any, gates: Any, weights: Any, first: Any, block: Any) -> Any:
        return written(_weigh, _rows(weights, several), (inputs, gates, weights), 2)

    return tile


def _advancing(several: bool) -> Any:
    @intrinsic  # type: ignore[misc]
    def tile(
        _typing: Any, gates: Any, before: Any, after: Any, cells: Any, weights: Any,
        first_gates: Any, first: Any, block: Any, units: Any,
    ) -> Any:  # fmt: skip
        matrices = (gates, before, after, cells, weights)
        return written(_advance, _rows(weights, several), matrices, 4)

    return tile


@intrinsic  # type: ignore[misc]
def tile_rows(_typing: Any, weights: Any) -> Any:
    """Return how many packets ``weigh_rows`` and ``advance_rows`` take, by the type of the weights."""

    def code(_context: Any, _builder: Any, _signature: Any, _values: Any) -> Any:
        return ir.IntType(64)(_rows(weights, several=True))

    return types.int64(weights), code


weigh_rows, weigh_row = _weighing(several=True), _weighing(several=False)
"""Make the gates of a tile's packets, or of one, for one block.

Args:
    inputs: float32 (rows, inputs); for short weights int16, and an even number of them.
    gates: float32 (rows, blocks * 4 * LANES), written.
    weights: float32 (blocks, (1 + inputs) * 4 * LANES), the biases first; or int32, short: biases and quanta, both
        floats, and then a pair for each two inputs.
    first: the first packet, in both.
    block: which units.
"""
advance_rows, advance_row = _advancing(several=True), _advancing(several=False)
"""Take a tile's packets, or one, a step on: the units of one block.

Args:
    gates: float32 (rows, blocks * 4 * LANES).
    before: float32 (rows, blocks * LANES), what the units said in the step before; for short weights int16, multiples
        of ``SAID_QUANTUM``.
    after: as ``before``; what they say now is written there.
    cells: float32, as large; the states of the cells, written over.
    weights: float32 (blocks, units * 4 * LANES); or int32, short: quanta first, then a pair for each two units.
    first_gates: the first packet, in the gates.
    first: the first packet, in the others.
    block: which units.
    units: how many say something; the others fill up their block.
"""
