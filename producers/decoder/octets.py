"""Reading integers out of a byte array, in both byte orders.

Callers check lengths first. Indices are turned into unsigned ones, which spares Numba its test for negative
indices and lets LLVM merge the bytes into a single load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled

_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)
_U4, _U5, _U6, _U7 = np.uint64(4), np.uint64(5), np.uint64(6), np.uint64(7)
_S8, _S16, _S24, _S32 = np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)
_S40, _S48, _S56 = np.uint64(40), np.uint64(48), np.uint64(56)


@compiled(forceinline=True)
def u8(raw: NDArray[np.uint8], at: int) -> np.int64:
    """Return the byte at ``at``."""
    return np.int64(raw[np.uint64(at)])


@compiled(forceinline=True)
def u16_big(raw: NDArray[np.uint8], at: int) -> np.int64:
    """Return two bytes in network order."""
    i = np.uint64(at)
    return np.int64((np.uint64(raw[i]) << _S8) | np.uint64(raw[i + _U1]))


@compiled(forceinline=True)
def u16_little(raw: NDArray[np.uint8], at: int) -> np.int64:
    """Return two bytes, the lowest first."""
    i = np.uint64(at)
    return np.int64(np.uint64(raw[i]) | (np.uint64(raw[i + _U1]) << _S8))


@compiled(forceinline=True)
def u32_big(raw: NDArray[np.uint8], at: int) -> np.int64:
    """Return four bytes in network order."""
    i = np.uint64(at)
    return np.int64(
        (np.uint64(raw[i]) << _S24)
        | (np.uint64(raw[i + _U1]) << _S16)
        | (np.uint64(raw[i + _U2]) << _S8)
        | np.uint64(raw[i + _U3])
    )


@compiled(forceinline=True)
def u32_little(raw: NDArray[np.uint8], at: int) -> np.int64:
    """Return four bytes, the lowest first."""
    i = np.uint64(at)
    return np.int64(
        np.uint64(raw[i])
        | (np.uint64(raw[i + _U1]) << _S8)
        | (np.uint64(raw[i + _U2]) << _S16)
        | (np.uint64(raw[i + _U3]) << _S24)
    )


@compiled(forceinline=True)
def u16(raw: NDArray[np.uint8], at: int, big: bool) -> int:
    """Return two bytes in the byte order of a capture file."""
    return u16_big(raw, at) if big else u16_little(raw, at)


@compiled(forceinline=True)
def u32(raw: NDArray[np.uint8], at: int, big: bool) -> int:
    """Return four bytes in the byte order of a capture file."""
    return u32_big(raw, at) if big else u32_little(raw, at)


@compiled(forceinline=True)
def word_little(raw: NDArray[np.uint8], at: int) -> np.uint64:
    """Return eight bytes as the word that ``schemas.flow_key`` hashes."""
    i = np.uint64(at)
    return (
        np.uint64(raw[i])
        | (np.uint64(raw[i + _U1]) << _S8)
        | (np.uint64(raw[i + _U2]) << _S16)
        | (np.uint64(raw[i + _U3]) << _S24)
        | (np.uint64(raw[i + _U4]) << _S32)
        | (np.uint64(raw[i + _U5]) << _S40)
        | (np.uint64(raw[i + _U6]) << _S48)
        | (np.uint64(raw[i + _U7]) << _S56)
    )


@compiled(forceinline=True)
def word_big(raw: NDArray[np.uint8], at: int) -> np.uint64:
    """Return eight bytes as the number whose order is that of the bytes."""
    i = np.uint64(at)
    return (
        (np.uint64(raw[i]) << _S56)
        | (np.uint64(raw[i + _U1]) << _S48)
        | (np.uint64(raw[i + _U2]) << _S40)
        | (np.uint64(raw[i + _U3]) << _S32)
        | (np.uint64(raw[i + _U4]) << _S24)
        | (np.uint64(raw[i + _U5]) << _S16)
        | (np.uint64(raw[i + _U6]) << _S8)
        | np.uint64(raw[i + _U7])
    )
