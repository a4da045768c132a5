"""BLAKE2b (RFC 7693) of many short texts that begin alike, by compiled code: without a key, digests of 8 bytes."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schemas.compiled import inner
from schemas.flow_key import word_at

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

_BLOCK = 128
"""Bytes that are taken in at once: 16 words."""
_IV: Words = np.array(
    [
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    ],
    np.uint64,
)  # fmt: skip
_BEGIN: Words = _IV ^ np.array([0x01010008, 0, 0, 0, 0, 0, 0, 0], np.uint64)
"""The state before the first block: one lane, no key, 8 bytes of digest."""
_ORDERS: NDArray[np.uint8] = np.array(
    [
        [int(digit, 16) for digit in order]
        for order in (
            "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8",
            "905724afe1bc683d", "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a",
            "6fe9b308c2d714a5", "a2847615fb9e3cd0", "0123456789abcdef", "ea489fd61c02b753",
        )
    ],
    np.uint8,
)  # fmt: skip
"""(12, 16): which word of the block comes when, in each round."""
_S16, _S24, _S32, _S63 = np.uint64(16), np.uint64(24), np.uint64(32), np.uint64(63)
_ALL = np.uint64(2**64 - 1)


@njit(cache=True, nogil=True)
def digests(head: Bytes, tails: Bytes) -> Words:
    """Return the digest of ``head`` and each tail, as the number that its hexadecimal digits write.

    Args:
        head: what all texts begin with, of any length.
        tails: (rows, octets) what they end with.
    """
    begin, size = len(head), len(head) + tails.shape[1]
    # Even an empty text is a block. What lies behind a text in its last one is zeros.
    blocks = max(1, (size + _BLOCK - 1) // _BLOCK)
    text = np.zeros(blocks * _BLOCK, np.uint8)
    for k in range(begin):
        text[k] = head[k]
    shared, state, words = _BEGIN.copy(), np.empty(8, np.uint64), np.empty(16, np.uint64)
    # Blocks in which all texts are alike are taken in once.
    alike = min(begin // _BLOCK, blocks - 1)
    for block in range(alike):
        _take_in(shared, text, block, np.uint64((block + 1) * _BLOCK), False, words)
    out = np.empty(len(tails), np.uint64)
    for i in range(len(tails)):
        for k in range(size - begin):
            text[begin + k] = tails[i, k]
        for k in range(8):
            state[k] = shared[k]
        for block in range(alike, blocks):
            is_last = block == blocks - 1
            taken = size if is_last else (block + 1) * _BLOCK
            _take_in(state, text, block, np.uint64(taken), is_last, words)
        out[i] = _turned(state[0])
    return out


@inner
def _turned(word: np.uint64) -> np.uint64:
    """Return the bytes of a word in opposite order."""
    out = np.uint64(0)
    for k in range(8):
        out = (out << np.uint64(8)) | ((word >> np.uint64(8 * k)) & np.uint64(255))
    return out


@inner
def _mixed(
    a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, x: np.uint64, y: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return four words of the state after two of the block."""
    a = a + b + x
    d = d ^ a
    d = (d >> _S32) | (d << _S32)
    c = c + d
    b = b ^ c
    b = (b >> _S24) | (b << (np.uint64(64) - _S24))
    a = a + b + y
    d = d ^ a
    d = (d >> _S16) | (d << (np.uint64(64) - _S16))
    c = c + d
    b = b ^ c
    b = (b >> _S63) | (b << (np.uint64(64) - _S63))
    return a, b, c, d


@inner
def _take_in(state: Words, text: Bytes, block: int, taken: np.uint64, is_last: bool, words: Words) -> None:
    """Change a state by a block of the text; ``taken``: bytes of the text up to its end."""
    for k in range(16):
        words[k] = word_at(text, block * _BLOCK + 8 * k)
    # Sixteen names: as an array they would lie in memory.
    a0, a1, a2, a3, b0, b1, b2, b3 = (
        state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7],
    )  # fmt: skip
    c0, c1, c2, c3, d0, d1, d2, d3 = _IV[0], _IV[1], _IV[2], _IV[3], _IV[4], _IV[5], _IV[6], _IV[7]
    d0 ^= taken
    if is_last:
        d2 ^= _ALL
    for r in range(12):
        w = _ORDERS[r]
        a0, b0, c0, d0 = _mixed(a0, b0, c0, d0, words[w[0]], words[w[1]])
        a1, b1, c1, d1 = _mixed(a1, b1, c1, d1, words[w[2]], words[w[3]])
        a2, b2, c2, d2 = _mixed(a2, b2, c2, d2, words[w[4]], words[w[5]])
        a3, b3, c3, d3 = _mixed(a3, b3, c3, d3, words[w[6]], words[w[7]])
        a0, b1, c2, d3 = _mixed(a0, b1, c2, d3, words[w[8]], words[w[9]])
        a1, b2, c3, d0 = _mixed(a1, b2, c3, d0, words[w[10]], words[w[11]])
        a2, b3, c0, d1 = _mixed(a2, b3, c0, d1, words[w[12]], words[w[13]])
        a3, b0, c1, d2 = _mixed(a3, b0, c1, d2, words[w[14]], words[w[15]])
    state[0] ^= a0 ^ c0
    state[1] ^= a1 ^ c1
    state[2] ^= a2 ^ c2
    state[3] ^= a3 ^ c3
    state[4] ^= b0 ^ d0
    state[5] ^= b1 ^ d1
    state[6] ^= b2 ^ d2
    state[7] ^= b3 ^ d3
