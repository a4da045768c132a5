"""Columns in as few bits as their values need: how feature batches keep small without a compressor.

A packed column is three numbers and its codes. The numbers: how a code is read (``4 * bits + 2 * whole + zero``), a
base and a step. The codes stand one behind the other, the first in the lowest bits of the first byte, ``bits`` each;
the column ends with its last byte. A code means ``base + step * code`` modulo 2^64; where ``zero`` is set, code 0 means
0 and any other ``base + step * (code - 1)``. Values of float32 columns are whole numbers where ``whole`` is set, and
else the value's own 32 bits. Nothing is lost.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.errors import CodecError

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
MOST_BITS = 64
MOST_VALUES = 1 << 22
"""Most values of a batch: codes of no bits take no octets, so a few octets could ask for any amount of memory."""
_WHOLE, _ZERO = 2, 1
_MOST_WHOLE = np.float32(1 << 30)


def numbers_of(flat: list[int] | Integers) -> Integers:
    """Return the numbers of columns, (columns, 3), out of a message; raises CodecError if they are none."""
    try:
        return np.array(flat, np.int64).reshape(-1, 3)
    except (OverflowError, ValueError) as error:
        raise CodecError(f"the numbers of packed columns: {error}") from error


def check_size(columns: int, rows: int) -> None:
    """Raise CodecError where no batch has so many columns of so many rows."""
    if rows < 0 or rows * columns > MOST_VALUES:
        raise CodecError(f"{columns} packed columns of {rows} rows")


def words_of(octets: bytes) -> Words:
    """Return the codes of columns as ``read`` wants them: two words more than they take, since it reads ahead."""
    return np.frombuffer(octets + bytes(16 + -len(octets) % 8), "<u8").astype(np.uint64, copy=False)


@njit(cache=True, nogil=True)
def octets_of(numbers: Integers, rows: int) -> int:
    """Return how many octets the codes of columns take, -1 where there is no such column."""
    octets = 0
    for c in range(len(numbers)):
        kind = numbers[c, 0]
        if kind < 0 or kind > 4 * MOST_BITS + 3:
            return -1
        octets += ((kind >> 2) * rows + 7) >> 3
    return octets


@njit(cache=True, nogil=True)
def as_integers(columns: NDArray[np.float32], raw: NDArray[np.uint32], values: Integers) -> NDArray[np.bool_]:
    """Write each column as integers; return which of them are of whole numbers."""
    whole: NDArray[np.bool_] = np.zeros(len(columns), np.bool_)
    for c in range(len(columns)):
        column, bits, out = columns[c], raw[c], values[c]
        fits = True
        for i in range(len(column)):
            value = column[i]
            # Not so for what is no number, and -0 is more than the whole number 0.
            if not (abs(value) <= _MOST_WHOLE) or bits[i] == 0x80000000:
                fits = False
                break
            out[i] = np.int64(np.int32(value))
            if np.float32(out[i]) != value:
                fits = False
                break
        whole[c] = fits
        if not fits:
            for i in range(len(column)):
                out[i] = np.int64(bits[i])
    return whole


@njit(cache=True, nogil=True)
def measure(values: Integers, whole: NDArray[np.bool_], by_division: bool, numbers: Integers) -> int:
    """Choose the numbers of each column; return how many octets all codes take."""
    octets = 0
    for c in range(len(values)):
        column = values[c]
        rows = len(column)
        if rows == 0:
            continue
        least = most = column[0]
        zero = False
        least_other = np.int64((1 << 63) - 1)
        for i in range(rows):
            value = column[i]
            least, most = min(least, value), max(most, value)
            if value == 0:
                zero = True
            else:
                least_other = min(least_other, value)
        apart = zero and least == 0 and most > 0
        base = least_other if apart else least
        step = _step(column, base, apart, by_division)
        top = np.uint64(most - base) // step + np.uint64(1 if apart else 0)
        bits = 0
        while top > np.uint64(0):
            bits += 1
            top >>= np.uint64(1)
        numbers[c, 0] = bits * 4 + (_WHOLE if whole[c] else 0) + (_ZERO if apart else 0)
        numbers[c, 1], numbers[c, 2] = base, np.int64(step)
        octets += (bits * rows + 7) >> 3
    return octets


@njit(cache=True, nogil=True)
def _step(column: Integers, base: int, apart: bool, by_division: bool) -> np.uint64:
    """Return what divides all differences from ``base``: the largest number, or power of 2, which is found faster."""
    step, united = np.uint64(0), np.uint64(0)
    if not by_division:
        for i in range(len(column)):
            united |= np.uint64(0) if apart and column[i] == 0 else np.uint64(column[i] - base)
        return united & (~united + np.uint64(1)) if united else np.uint64(1)
    for i in range(len(column)):
        difference = np.uint64(column[i] - base)
        if (apart and column[i] == 0) or difference == united:
            continue
        united = difference
        while difference > np.uint64(0):
            step, difference = difference, step % difference
        if step == np.uint64(1):
            break
    return max(step, np.uint64(1))


@njit(cache=True, nogil=True)
def _shift(step: np.uint64) -> int:
    """Return n for a step of 2^n, else -1."""
    if step == np.uint64(0) or step & (step - np.uint64(1)):
        return -1
    n = 0
    while step > np.uint64(1):
        step >>= np.uint64(1)
        n += 1
    return n


@njit(cache=True, nogil=True)
def write(values: Integers, numbers: Integers, words: Words, at: int) -> int:
    """Write the codes of columns (columns, rows) from bit ``at`` on; return the bit behind them."""
    for c in range(len(values)):
        kind, base, step = numbers[c, 0], numbers[c, 1], np.uint64(numbers[c, 2])
        bits = kind >> 2
        if bits == 0:
            continue
        apart, shift, column = kind & _ZERO, _shift(step), values[c]
        # The word that is being filled is kept out of memory until it is full.
        place, used = at >> 6, at & 63
        word = words[place]
        for i in range(len(column)):
            code = np.uint64(0)
            if not (apart and column[i] == 0):
                code = np.uint64(column[i] - base)
                code = code >> np.uint64(shift) if shift >= 0 else code // step
                code += np.uint64(apart)
            word |= code << np.uint64(used)
            used += bits
            if used >= 64:
                words[place] = word
                place, used = place + 1, used - 64
                word = code >> np.uint64(bits - used) if used > 0 else np.uint64(0)
        words[place] = word
        at += bits * len(column)
        at = (at + 7) & ~7
    return at


@njit(cache=True, nogil=True)
def read(words: Words, at: int, numbers: Integers, column: Integers) -> int:
    """Read the codes of a column, whose three numbers these are, from bit ``at`` on; return the bit behind it."""
    kind, base, step = numbers[0], np.uint64(numbers[1]), np.uint64(numbers[2])
    bits, apart = kind >> 2, kind & _ZERO
    if bits == 0:
        # One value in all rows.
        column[:] = 0 if apart else np.int64(base)
        return at
    mask = ~np.uint64(0) if bits == 64 else (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for i in range(len(column)):
        word, offset = at >> 6, at & 63
        code = words[word] >> np.uint64(offset)
        if offset + bits > 64:
            code |= words[word + 1] << np.uint64(64 - offset)
        at += bits
        code &= mask
        if apart and code == np.uint64(0):
            column[i] = 0
        else:
            column[i] = np.int64(base + step * (code - np.uint64(apart)))
    return (at + 7) & ~7


@njit(cache=True, nogil=True)
def is_whole(numbers: Integers) -> bool:
    """Return whether the codes of a column of float32, whose three numbers these are, are whole numbers."""
    return (numbers[0] & _WHOLE) != 0
