"""Packed columns: nothing is lost, and they take the bits that they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from schemas.packing import as_integers, is_whole, measure, numbers_of, octets_of, read, words_of, write

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)
LEAST, MOST = -(1 << 63), (1 << 63) - 1
ODD = [0.0, -0.0, 1.0, -1.0, 1.5, 255.0, 2.0**30, -(2.0**30), 2.0**31, 3e38, 1e-45, np.inf, -np.inf, np.nan]


def by_hand(numbers: list[int], octets: bytes, rows: int) -> list[int]:
    """Read one column as its description says."""
    kind, base, step = numbers
    bits = np.unpackbits(np.frombuffer(octets, np.uint8), bitorder="little").tolist()
    width = kind // 4
    codes = [sum(bits[row * width + i] << i for i in range(width)) for row in range(rows)]
    if kind % 2:
        return [0 if code == 0 else base + step * (code - 1) for code in codes]
    return [base + step * code for code in codes]


def packed(values: Any, whole: Any, by_division: bool) -> tuple[Any, bytes]:
    numbers = np.zeros((len(values), 3), np.int64)
    octets = measure(values, whole, by_division, numbers)
    words = np.zeros(octets // 8 + 2, np.uint64)
    assert (write(values, numbers, words, 0) + 7) // 8 == octets
    return numbers, words.tobytes()[:octets]


def pack_integers(values: Any) -> tuple[Any, bytes]:
    return packed(values, np.zeros(len(values), np.bool_), True)


def pack_floats(matrix: Any) -> tuple[Any, bytes]:
    columns = np.ascontiguousarray(matrix.T)
    values = np.empty(columns.shape, np.int64)
    return packed(values, as_integers(columns, columns.view(np.uint32), values), False)


def unpack_integers(numbers: Any, octets: bytes, rows: int) -> Any:
    values, words, bit = np.empty((len(numbers), rows), np.int64), words_of(octets), 0
    for column, own in zip(values, numbers, strict=True):
        bit = read(words, bit, own, column)
    return values


def unpack_floats(numbers: Any, octets: bytes, rows: int) -> Any:
    values = unpack_integers(numbers, octets, rows)
    whole = np.array([is_whole(own) for own in numbers], np.bool_)[:, None]
    floats = np.where(whole, values.astype(np.float32), values.astype(np.uint32).view(np.float32))
    return np.ascontiguousarray(floats.T)


@settings(max_examples=200, deadline=None)
@given(
    values=arrays(
        np.int64,
        SHAPES,
        elements=st.sampled_from([0, 0, 1, 5, -3, 10**10, LEAST, MOST]) | st.integers(LEAST, MOST),
    )
)
def test_integers_come_back(values: Any) -> None:
    numbers, octets = pack_integers(values)
    rows = values.shape[1]
    assert octets_of(numbers, rows) == len(octets)
    assert np.array_equal(unpack_integers(numbers_of(numbers.ravel().tolist()), octets, rows), values)


@settings(max_examples=200, deadline=None)
@given(
    matrix=arrays(np.float32, SHAPES, elements=st.sampled_from(ODD) | st.floats(width=32) | st.integers(0, 9))
)
def test_floats_come_back_bit_by_bit(matrix: Any) -> None:
    numbers, octets = pack_floats(matrix)
    assert octets_of(numbers, len(matrix)) == len(octets)
    assert unpack_floats(numbers, octets, len(matrix)).tobytes() == matrix.tobytes()


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        ([7, 7, 7], [0, 7, 1]),
        ([0, 0, 0], [0, 0, 1]),
        ([40, 42, 44], [2 * 4, 40, 2]),
        ([0, 1, 2, 3], [2 * 4 + 1, 1, 1]),
        ([0, 10**18, 10**18 + 10**10], [2 * 4 + 1, 10**18, 10**10]),
        ([-1, 0, 1], [2 * 4, -1, 1]),
        ([5, 300], [1 * 4, 5, 295]),
        ([LEAST, MOST, 0], [64 * 4, LEAST, 1]),
    ],
)
def test_a_column_of_integers_takes_the_bits_it_needs(column: list[int], numbers: list[int]) -> None:
    made, octets = pack_integers(np.array([column]))
    assert made.tolist() == [numbers]
    assert len(octets) == -(-(numbers[0] // 4) * len(column) // 8)
    assert by_hand(numbers, octets, len(column)) == column


@pytest.mark.parametrize(
    ("column", "kind", "step"),
    [
        ([0.0, 1.0, 200.0], 8 * 4 + 3, 1),
        ([0.0, 1500.0, 3000.0], 9 * 4 + 3, 4),
        ([0.5, 0.75], 1 * 4, 1 << 22),
        ([-0.0, 0.0], 1 * 4 + 1, 1),
    ],
)
def test_a_column_of_floats_takes_the_bits_it_needs(column: list[float], kind: int, step: int) -> None:
    numbers, octets = pack_floats(np.array(column, np.float32)[:, None])
    assert numbers[0, [0, 2]].tolist() == [kind, step]
    values = by_hand(numbers[0].tolist(), octets, len(column))
    if kind & 2:
        assert values == column
    else:
        assert values == np.array(column, np.float32).view(np.uint32).tolist()


def test_columns_end_with_an_octet_and_codes_pass_over_its_ends() -> None:
    values = np.array([np.arange(5), np.arange(100, 105), np.arange(5) * 3001 % 4096])
    numbers, octets = pack_integers(values)
    sizes = [octets_of(numbers[i : i + 1], 5) for i in range(3)]
    assert sizes == [2, 2, 8]
    at = 0
    for row, size, column in zip(numbers.tolist(), sizes, values.tolist(), strict=True):
        assert by_hand(row, octets[at : at + size], 5) == column
        at += size
