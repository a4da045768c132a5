"""The rows of a feature batch, packed and unpacked by one call each, however few they are.

Three columns are made smaller before they are packed: ``start_ns`` and ``end_ns`` count from ``interval_start_ns``, and
an address is its first four octets as a big-endian number. Behind these columns follow, for the rows that are not of
IPv4 only, the other twelve octets of both addresses as three such numbers each, and then the features.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.codec import schema
from schemas.columns import Array, Block, columns_of
from schemas.errors import CodecError
from schemas.packing import (
    Integers,
    Words,
    as_integers,
    check_size,
    is_whole,
    measure,
    octets_of,
    read,
    words_of,
    write,
)

Octets = NDArray[np.uint8]
_Buffer = tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint32], NDArray[np.int64]]
"""The same memory as values of one, two, four and eight octets."""

_DECLARED = columns_of(schema("FeatureBatch"))
ROW_COLUMNS = tuple(c for c in _DECLARED if c.rows == "row_count" and c.width_field is None)
_ALL_COLUMNS = (*ROW_COLUMNS, *(c for c in _DECLARED if c.rows == "service_rows"))
PACKED = tuple(c.name for c in _ALL_COLUMNS)
"""Columns of integers in the order in which they are packed; the last three where services are named."""

_SOURCE, _DESTINATION = PACKED.index("source_address"), PACKED.index("destination_address")
_START, _END, _INTERVAL = (PACKED.index(name) for name in ("start_ns", "end_ns", "interval_start_ns"))
_IP_VERSION, _REASON = PACKED.index("ip_version"), PACKED.index("flow_end_reason")
_ADDRESS_OCTETS = 16
_FURTHER = 6
"""Numbers of four octets in two addresses beyond the first of each."""
_READ, _OTHER_FORM, _WRONG_OCTETS = 0, 1, 2


ROWS, ROWS_WITH_SERVICES = Block(ROW_COLUMNS), Block(_ALL_COLUMNS)
_PLAIN = [(i, c.name) for i, c in enumerate(_ALL_COLUMNS) if not c.width]


def pack_rows(columns: dict[str, Array]) -> tuple[Integers, bytes]:
    """Return the numbers of all columns but ``texts``, one behind the other, and their codes."""
    rows = len(columns["flow_id"])
    own = len(PACKED) if "service" in columns else len(ROW_COLUMNS)
    values: Integers = np.empty((own, rows), np.int64)
    for i, name in _PLAIN:
        if i < own:
            values[i] = columns[name]
    source, destination = (
        np.ascontiguousarray(columns[name], np.uint8) for name in ("source_address", "destination_address")
    )
    features: NDArray[np.float32] = np.ascontiguousarray(columns["features"].T, "<f4")
    numbers, words, octets = _pack(values, source, destination, features, features.view(np.uint32))
    return numbers.ravel(), words.tobytes()[:octets]


def unpack_rows(
    numbers: Integers, octets: bytes, rows: int, features: int, has_services: bool
) -> tuple[dict[str, Array], int]:
    """Return all columns but ``texts``, and the largest flow end reason.

    Args:
        numbers: (columns, 3), as ``schemas.packing.numbers_of`` returns them.
        octets: the codes of all columns.
        rows: how many each column has.
        features: columns of the feature matrix.
        has_services: whether the three columns about services are among them.

    Raises:
        CodecError: the columns are not packed as they must be.
    """
    block = ROWS_WITH_SERVICES if has_services else ROWS
    own = len(block.names)
    if len(numbers) != own + _FURTHER + features:
        raise CodecError(f"{len(numbers)} packed columns for {features} features")
    check_size(own, rows)
    check_size(features, rows)
    out = block.empty(rows)
    matrix = np.empty((rows, features), np.float32)
    # As values of each width, since it takes Numba seconds to compile another view of an array.
    buffer = (out, out.view(np.uint16), out.view(np.uint32), out.view(np.int64))
    raw = matrix.view(np.uint32)
    status, reason = _unpack(words_of(octets), len(octets), numbers, block.places, buffer, matrix, raw)
    if status == _OTHER_FORM:
        raise CodecError("a packed column of another form")
    if status == _WRONG_OCTETS:
        raise CodecError(f"{len(octets)} bytes are not {len(numbers)} packed columns of {rows} rows")
    columns = block.views(out, rows)
    columns["features"] = matrix
    return columns, reason


@njit(cache=True, nogil=True)
def _word(address: Octets, n: int) -> int:
    """Return the n-th four octets of an address as a number."""
    at = 4 * n
    word = 0
    for i in range(4):
        word = word << 8 | int(address[at + i])
    return word


@njit(cache=True, nogil=True)
def _pack(
    values: Integers,
    source: Octets,
    destination: Octets,
    features: NDArray[np.float32],
    raw: NDArray[np.uint32],
) -> tuple[Integers, Words, int]:
    """Return the numbers of all columns (columns, 3), the codes and how many octets those are.

    Args:
        values: (own columns, rows), without the addresses; made smaller in place.
        source: (rows, 16) addresses.
        destination: (rows, 16) addresses.
        features: (features, rows).
        raw: the same memory.
    """
    own, rows = values.shape
    longer = 0
    for row in range(rows):
        values[_START, row] -= values[_INTERVAL, row]
        values[_END, row] -= values[_INTERVAL, row]
        values[_SOURCE, row], values[_DESTINATION, row] = _word(source[row], 0), _word(destination[row], 0)
        longer += values[_IP_VERSION, row] != 4
    further = np.empty((_FURTHER, longer), np.int64)
    at = 0
    for row in range(rows):
        if longer > 0 and values[_IP_VERSION, row] != 4:
            for n in range(3):
                further[n, at] = _word(source[row], 1 + n)
                further[3 + n, at] = _word(destination[row], 1 + n)
            at += 1
    floats = np.empty(features.shape, np.int64)
    whole = as_integers(features, raw, floats)

    numbers = np.zeros((own + _FURTHER + len(floats), 3), np.int64)
    of_own, of_further, of_floats = numbers[:own], numbers[own : own + _FURTHER], numbers[own + _FURTHER :]
    none_whole = np.zeros(own, np.bool_)
    octets = measure(values, none_whole, True, of_own)
    octets += measure(further, none_whole, True, of_further)
    octets += measure(floats, whole, False, of_floats)
    words = np.zeros(octets // 8 + 2, np.uint64)
    bit = write(values, of_own, words, 0)
    bit = write(further, of_further, words, bit)
    write(floats, of_floats, words, bit)
    return numbers, words, octets


@njit(cache=True, nogil=True)
def _store(column: Integers, octets: int, at: int, out: _Buffer) -> None:
    """Write a column as values of so many octets from an octet on; of an address its first four, zeros behind them."""
    octets_out, shorts, ints, longs = out
    at //= min(octets, 8)
    if octets == 1:
        for row in range(len(column)):
            octets_out[at + row] = column[row]
    elif octets == 2:
        for row in range(len(column)):
            shorts[at + row] = column[row]
    elif octets == 4:
        for row in range(len(column)):
            ints[at + row] = column[row]
    elif octets == 8:
        for row in range(len(column)):
            longs[at + row] = column[row]
    else:
        for row in range(len(column)):
            longs[at + 2 * row] = longs[at + 2 * row + 1] = 0
            _put_word(octets_out, 8 * at + _ADDRESS_OCTETS * row, column[row])


@njit(cache=True, nogil=True)
def _put_word(out: Octets, at: int, word: int) -> None:
    for i in range(4):
        out[at + i] = (word >> (24 - 8 * i)) & 255


@njit(cache=True, nogil=True)
def _unpack(
    words: Words,
    octets: int,
    numbers: Integers,
    places: Integers,
    out: _Buffer,
    matrix: NDArray[np.float32],
    raw: NDArray[np.uint32],
) -> tuple[int, int]:
    """Unpack all columns; return what came of it and the largest flow end reason.

    Args:
        words: the codes, with two words behind them that may be read.
        octets: of the codes.
        numbers: (columns, 3).
        places: (own columns, 2) of a ``Block``.
        out: where the own columns go.
        matrix: (rows, features), where the features go.
        raw: the same memory.
    """
    own, rows = len(places), len(matrix)
    of_further, of_floats = numbers[own : own + _FURTHER], numbers[own + _FURTHER :]
    first = octets_of(numbers[:own], rows)
    if first < 0:
        return _OTHER_FORM, 0
    if octets < first:
        return _WRONG_OCTETS, 0
    column, longer, count = np.empty(rows, np.int64), np.zeros(rows, np.bool_), 0
    bit = 0
    for c in range(own):
        bit = read(words, bit, numbers[c], column)
        _store(column, places[c, 0], places[c, 1] * rows, out)
        if c == _IP_VERSION:
            for row in range(rows):
                longer[row] = column[row] != 4
                count += longer[row]
    second, third = octets_of(of_further, count), octets_of(of_floats, rows)
    if second < 0 or third < 0:
        return _OTHER_FORM, 0
    if octets != first + second + third:
        return _WRONG_OCTETS, 0

    longs, interval = out[3], places[_INTERVAL, 1] * rows // 8
    for c in (_START, _END):
        for row in range(rows):
            longs[places[c, 1] * rows // 8 + row] += longs[interval + row]
    if count > 0:
        bit = _unpack_further(words, bit, of_further, count, longer, places, out[0])
    for c in range(matrix.shape[1]):
        bit = read(words, bit, of_floats[c], column)
        _store_floats(column, is_whole(of_floats[c]), c, matrix, raw)
    reason, before = 0, places[_REASON, 1] * rows
    for row in range(rows):
        reason = max(reason, int(out[0][before + row]))
    return _READ, reason


@njit(cache=True, nogil=True)
def _unpack_further(
    words: Words,
    bit: int,
    numbers: Integers,
    count: int,
    longer: NDArray[np.bool_],
    places: Integers,
    out: Octets,
) -> int:
    """Write the twelve further octets of the addresses of ``longer`` rows; return the bit behind them."""
    column = np.empty(count, np.int64)
    for n in range(_FURTHER):
        bit = read(words, bit, numbers[n], column)
        before = places[_SOURCE if n < 3 else _DESTINATION, 1] * len(longer) + 4 * (1 + n % 3)
        at = 0
        for row in range(len(longer)):
            if longer[row]:
                _put_word(out, before + _ADDRESS_OCTETS * row, column[at])
                at += 1
    return bit


@njit(cache=True, nogil=True)
def _store_floats(
    column: Integers, whole: bool, c: int, matrix: NDArray[np.float32], raw: NDArray[np.uint32]
) -> None:
    """Write a column of the feature matrix, whose values are whole numbers or the bits of a float32."""
    if whole:
        for row in range(len(column)):
            matrix[row, c] = np.float32(column[row])
    else:
        for row in range(len(column)):
            raw[row, c] = np.uint32(column[row] & 0xFFFFFFFF)
