"""Crypto-PAn: prefix-preserving anonymisation of addresses (Xu, Fan, Ammar and Moon, ICNP 2002).

Bit *i* of an address is flipped by the first bit of AES(first *i* bits of the address, the rest from a secret pad).
So each address takes as many AES blocks as it has bits: they are made in Numba for many addresses at once and
encrypted by OpenSSL in one call, which uses the processor's AES and tells nothing of the key by the time it takes.
What the first 16 bits flip is computed beforehand. IPv6 goes the same way over 128 bits, as the well-known extensions
do; its first 32 bits are anonymised as those of an IPv4 address.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from producers.privacy.keys import Key
from producers.privacy.prefixes import Rules, first_bit, make_rules
from schemas.compiled import compiled

_TOP = 16
"""First bits whose flips are looked up."""
_AT_ONCE = 4096
"""Blocks encrypted in one call: 64 KiB, which stay in the cache."""
_BLOCK = 16
_1, _63, _64 = np.uint64(1), np.uint64(63), np.uint64(64)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_S8, _S16, _S32 = np.uint64(8), np.uint64(16), np.uint64(32)
_M8, _M16, _M32 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00000000FFFFFFFF)


@compiled(inline="always")
def swapped(x: np.uint64) -> np.uint64:
    """Return a word with its bytes in the other order: the columns' words are little-endian, addresses are not."""
    x = ((x & _M8) << _S8) | ((x >> _S8) & _M8)
    x = ((x & _M16) << _S16) | ((x >> _S16) & _M16)
    return (x << _S32) | (x >> _S32)


@compiled(inline="always")
def _head(bits: int) -> np.uint64:
    """Return a word whose first ``bits`` (0 to 64) are set."""
    return _ALL << np.uint64(64 - bits) if bits else np.uint64(0)


@compiled
def _write_blocks(
    words: NDArray[np.uint64],
    start: int,
    stop: int,
    bits: int,
    pad: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None:
    """Write the blocks of bits _TOP to ``bits`` of the addresses from ``start`` up to ``stop``, one by one."""
    k = 0
    for i in range(start, stop):
        high, low = words[i, 0], words[i, 1]
        for bit in range(_TOP, min(bits, 64)):
            mask = _head(bit)
            out[k, 0] = swapped((high & mask) | (pad[0] & ~mask))
            out[k, 1] = swapped(pad[1])
            k += 1
        for bit in range(64, bits):
            mask = _head(bit - 64)
            out[k, 0] = swapped(high)
            out[k, 1] = swapped((low & mask) | (pad[1] & ~mask))
            k += 1


@compiled
def _flip(
    words: NDArray[np.uint64],
    start: int,
    stop: int,
    bits: int,
    top: NDArray[np.uint16],
    encrypted: NDArray[np.uint8],
    rules: Rules,
) -> None:
    """Anonymise the addresses from ``start`` up to ``stop`` in place, with what their blocks became."""
    has_rules = rules.is_limited or len(rules.keep.bits) > 0
    k = 0
    for i in range(start, stop):
        high, low = words[i, 0], words[i, 1]
        flips_high = np.uint64(top[high >> np.uint64(64 - _TOP)]) << np.uint64(64 - _TOP)
        flips_low = np.uint64(0)
        for bit in range(_TOP, min(bits, 64)):
            flips_high |= np.uint64(encrypted[k] >> 7) << np.uint64(63 - bit)
            k += _BLOCK
        for bit in range(64, bits):
            flips_low |= np.uint64(encrypted[k] >> 7) << np.uint64(127 - bit)
            k += _BLOCK
        # Handing the rules over counts references: only where there are any.
        first = first_bit(rules, high, low) if has_rules else 0
        words[i, 0] = high ^ (flips_high & ~_head(min(first, 64)))
        words[i, 1] = low ^ (flips_low & ~_head(max(first - 64, 0)))


class CryptoPan:
    """Anonymises addresses with one key.

    Args:
        key: its first half is the AES key, its second half makes the pad.
        only, keep: prefixes, see ``producers.privacy.prefixes``.
    """

    def __init__(self, key: Key, only: Sequence[str] = (), keep: Sequence[str] = ()) -> None:
        # ECB is what Crypto-PAn is made of: a pseudorandom function of single blocks, none of which is sent.
        self._cipher = Cipher(algorithms.AES(key.octets[:16]), modes.ECB()).encryptor()  # noqa: S305
        self._pad = np.frombuffer(self._cipher.update(key.octets[16:]), ">u8").astype(np.uint64)
        self._rules = {version: make_rules(only, keep, version) for version in (4, 6)}
        self._blocks = np.zeros((_AT_ONCE, 2), np.uint64)
        self._encrypted = np.zeros(_AT_ONCE * _BLOCK + _BLOCK - 1, np.uint8)
        self._top = self._make_top()

    def __repr__(self) -> str:
        return "CryptoPan(…)"

    def anonymise(self, words: NDArray[np.uint64], version: int) -> None:
        """Anonymise addresses of one IP version in place.

        Args:
            words: (rows, 2), the first bit highest; IPv4 addresses in the upper half of the first word.
            version: 4 or 6.
        """
        bits = 32 if version == 4 else 128
        each, rules = bits - _TOP, self._rules[version]
        step = _AT_ONCE // each
        for start in range(0, len(words), step):
            stop = min(start + step, len(words))
            blocks = self._blocks[: (stop - start) * each]
            _write_blocks(words, start, stop, bits, self._pad, blocks)
            _flip(words, start, stop, bits, self._top, self._encrypt(blocks), rules)

    def _encrypt(self, blocks: NDArray[np.uint64]) -> NDArray[np.uint8]:
        self._cipher.update_into(blocks.view(np.uint8).reshape(-1), self._encrypted)  # type: ignore[arg-type]
        return self._encrypted

    def _make_top(self) -> NDArray[np.uint16]:
        """Return what the first bits of an address flip, by these bits."""
        top = np.zeros(1 << _TOP, np.uint16)
        pad = self._pad[0]
        for bit in range(_TOP):
            prefixes = np.arange(1 << bit, dtype=np.uint64)
            mask = _ALL >> np.uint64(bit)
            blocks = np.empty((1 << bit, 2), ">u8")
            blocks[:, 0] = (prefixes << np.uint64(64 - bit) if bit else prefixes) | (pad & mask)
            blocks[:, 1] = self._pad[1]
            flips = np.frombuffer(self._cipher.update(blocks.tobytes()), np.uint8)[::_BLOCK] >> 7
            top |= np.repeat(flips.astype(np.uint16) << (_TOP - 1 - bit), 1 << (_TOP - bit))
        return top
