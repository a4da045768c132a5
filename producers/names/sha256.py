"""HMAC with SHA-256 (RFC 2104, FIPS 180-4) for compiled code: the public keys of QUIC's first packets."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def _fractions(count: int, root: int) -> NDArray[np.uint32]:
    """Return the first 32 bits after the point of the square (2) or cube (3) roots of the first primes."""
    primes = [n for n in range(2, 312) if all(n % d for d in range(2, n))][:count]
    return np.array([_root(prime << (32 * root), root) & 0xFFFFFFFF for prime in primes], np.uint32)


def _root(value: int, root: int) -> int:
    low, high = 0, 1 << 48
    while high - low > 1:
        middle = (low + high) >> 1
        low, high = (middle, high) if middle**root <= value else (low, middle)
    return low


_BEGIN, _ROUND = _fractions(8, 2), _fractions(64, 3)
_BLOCK, DIGEST = 64, 32
MOST = 55
"""Octets of a message."""


@njit(cache=True, nogil=True, forceinline=True)
def _turned(x: np.uint32, by: int) -> np.uint32:
    return np.uint32((x >> np.uint32(by)) | (x << np.uint32(32 - by)))


@njit(cache=True, nogil=True, boundscheck=False)
def _compress(state: NDArray[np.uint32], block: NDArray[np.uint8], w: NDArray[np.uint32]) -> None:
    for i in range(16):
        first, second = np.uint32(block[4 * i]), np.uint32(block[4 * i + 1])
        third, fourth = np.uint32(block[4 * i + 2]), np.uint32(block[4 * i + 3])
        w[i] = (first << np.uint32(24)) | (second << np.uint32(16)) | (third << np.uint32(8)) | fourth
    for i in range(16, 64):
        x, y = w[i - 15], w[i - 2]
        s0 = _turned(x, 7) ^ _turned(x, 18) ^ (x >> np.uint32(3))
        s1 = _turned(y, 17) ^ _turned(y, 19) ^ (y >> np.uint32(10))
        w[i] = np.uint32(w[i - 16] + s0 + w[i - 7] + s1)
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for i in range(64):
        s1 = _turned(e, 6) ^ _turned(e, 11) ^ _turned(e, 25)
        one = np.uint32(h + s1 + ((e & f) ^ (~e & g)) + _ROUND[i] + w[i])
        s0 = _turned(a, 2) ^ _turned(a, 13) ^ _turned(a, 22)
        two = np.uint32(s0 + ((a & b) ^ (a & c) ^ (b & c)))
        h, g, f, e = g, f, e, np.uint32(d + one)
        d, c, b, a = c, b, a, np.uint32(one + two)
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


@njit(cache=True, nogil=True)
def hmac_sha256(
    key: NDArray[np.uint8], message: NDArray[np.uint8], octets: int, out: NDArray[np.uint8]
) -> None:
    """Write the HMAC of a message's first ``octets``, at most MOST, to ``out`` (32); the key has at most 64."""
    state, w, block = np.empty(8, np.uint32), np.empty(64, np.uint32), np.empty(_BLOCK, np.uint8)
    for pad in (0x36, 0x5C):
        for i in range(8):
            state[i] = _BEGIN[i]
        for i in range(_BLOCK):
            block[i] = (key[i] if i < len(key) else 0) ^ pad
        _compress(state, block, w)
        for i in range(_BLOCK):
            block[i] = message[i] if i < octets else 0
        block[octets] = 0x80
        bits = 8 * (_BLOCK + octets)
        block[62], block[63] = bits >> 8, bits & 0xFF
        _compress(state, block, w)
        for i in range(DIGEST):
            out[i] = (state[i >> 2] >> np.uint32(24 - 8 * (i & 3))) & np.uint32(0xFF)
        message, octets = out, DIGEST
