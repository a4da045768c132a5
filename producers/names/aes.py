"""AES-128 (FIPS 197), encryption only, as compiled code can call it, for the public keys of QUIC's first packets.

Whoever sees the packet knows its keys, so that tables, whose time tells something of the key, do no harm here.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.decoder.octets import u32_big

ROUND_WORDS = 44


def _substitutes() -> list[int]:
    """Return the S-box: the inverse in GF(2^8), by powers of the generator 3, and an affine map."""
    power, logs = [1], {1: 0}
    for n in range(1, 255):
        doubled = power[-1] << 1 ^ (0x11B if power[-1] & 0x80 else 0)
        power.append(doubled ^ power[-1])
        logs[power[-1]] = n
    out = []
    for value in range(256):
        inverse = power[-logs[value] % 255] if value else 0
        turned = inverse ^ inverse << 1 ^ inverse << 2 ^ inverse << 3 ^ inverse << 4
        out.append((turned ^ turned >> 8) & 0xFF ^ 0x63)
    return out


def _mixed(value: int) -> int:
    """Return the column that a substituted byte adds: twice, once, once and three times the byte."""
    doubled = (value << 1 ^ (0x11B if value & 0x80 else 0)) & 0xFF
    return doubled << 24 | value << 16 | value << 8 | (doubled ^ value)


_SUBSTITUTE = np.array(_substitutes(), np.uint32)
_MIXED = np.array([_mixed(value) for value in _substitutes()], np.uint32)
_8, _16, _24, _BYTE = np.uint32(8), np.uint32(16), np.uint32(24), np.uint32(0xFF)


@njit(cache=True, nogil=True, forceinline=True)
def _right(x: np.uint32, by: np.uint32) -> np.uint32:
    return np.uint32((x >> by) | (x << (np.uint32(32) - by)))


@njit(cache=True, nogil=True, forceinline=True)
def _substituted(a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32) -> np.uint32:
    """Return one byte of each word, substituted."""
    return np.uint32(
        (_SUBSTITUTE[a >> _24] << _24)
        | (_SUBSTITUTE[(b >> _16) & _BYTE] << _16)
        | (_SUBSTITUTE[(c >> _8) & _BYTE] << _8)
        | _SUBSTITUTE[d & _BYTE]
    )


@njit(cache=True, nogil=True, forceinline=True)
def _column(a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32, key: np.uint32) -> np.uint32:
    return np.uint32(
        _MIXED[a >> _24]
        ^ _right(_MIXED[(b >> _16) & _BYTE], _8)
        ^ _right(_MIXED[(c >> _8) & _BYTE], _16)
        ^ _right(_MIXED[d & _BYTE], _24)
        ^ key
    )


@njit(cache=True, nogil=True)
def expand_key(key: NDArray[np.uint8], rounds: NDArray[np.uint32]) -> None:
    """Write the round keys of a key (16 octets) to ``rounds`` (ROUND_WORDS)."""
    constant = np.uint32(1)
    for i in range(4):
        rounds[i] = u32_big(key, 4 * i)
    for i in range(4, ROUND_WORDS):
        word = rounds[i - 1]
        if i & 3 == 0:
            word = _right(word, _24)
            word = np.uint32(_substituted(word, word, word, word) ^ (constant << _24))
            constant = np.uint32(
                (constant << np.uint32(1)) ^ (np.uint32(0x11B) if constant & np.uint32(0x80) else 0)
            )
        rounds[i] = rounds[i - 4] ^ word


@njit(cache=True, nogil=True, boundscheck=False)
def encrypt(
    rounds: NDArray[np.uint32], a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32
) -> tuple[np.uint32, np.uint32, np.uint32, np.uint32]:
    """Return a block, as four words in network order, encrypted."""
    a, b, c, d = a ^ rounds[0], b ^ rounds[1], c ^ rounds[2], d ^ rounds[3]
    for i in range(4, 40, 4):
        a, b, c, d = (
            _column(a, b, c, d, rounds[i]),
            _column(b, c, d, a, rounds[i + 1]),
            _column(c, d, a, b, rounds[i + 2]),
            _column(d, a, b, c, rounds[i + 3]),
        )
    return (
        np.uint32(_substituted(a, b, c, d) ^ rounds[40]),
        np.uint32(_substituted(b, c, d, a) ^ rounds[41]),
        np.uint32(_substituted(c, d, a, b) ^ rounds[42]),
        np.uint32(_substituted(d, a, b, c) ^ rounds[43]),
    )
