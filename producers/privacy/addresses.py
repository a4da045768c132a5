"""Anonymises the addresses of packet columns: known ones are looked up, new ones computed for a whole block at once.

Known addresses lie in two tables of fixed size, in one of two places by a hash that starts from a random number; a
newer address takes the place of the older one. An address of zeros is never looked up: it would be found in empty
places.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.transport import is_reversed
from producers.privacy.cryptopan import CryptoPan, swapped
from schemas.compiled import compiled
from schemas.flow_key import hash_words, mix

_FOUR, _SIX = 1 << 18, 1 << 16
"""Places for IPv4 addresses, of 8 bytes, and for IPv6 addresses, of 32."""
_1, _S32, _LOW32 = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)


class Known(NamedTuple):
    """Addresses as the columns' words, and what they become; a named tuple, so that Numba takes it."""

    four: NDArray[np.uint64]
    """(places,) address << 32 | anonymised"""
    six: NDArray[np.uint64]
    """(places, 4) address, anonymised"""
    seed: NDArray[np.uint64]
    """(1,)"""


class New(NamedTuple):
    """The addresses of some rows that are not known, each once, and the rows they are in."""

    filled: NDArray[np.int64]
    """(2,) addresses, rows"""
    word: NDArray[np.uint64]
    """(room, 2) address as the columns' words"""
    version: NDArray[np.uint8]
    row: NDArray[np.int64]
    a: NDArray[np.int64]
    """By row listed: number of the address of endpoint a."""
    b: NDArray[np.int64]
    places: NDArray[np.int64]
    """Hash table over ``word``: numbers, counted from ``begun``; lower values are empty places."""
    begun: NDArray[np.int64]
    """(1,)"""


def _allocate(rows: int) -> New:
    room = 2 * rows
    return New(
        np.zeros(2, np.int64),
        np.zeros((room, 2), np.uint64),
        np.zeros(room, np.uint8),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
        np.full(1 << (2 * room - 1).bit_length(), -1, np.int64),
        np.zeros(1, np.int64),
    )


@compiled(inline="always")
def _place(w0: np.uint64, w1: np.uint64, seed: np.uint64, places: int) -> np.uint64:
    """Return the first of an address's two places."""
    return mix(mix(w0 ^ seed) ^ w1) & np.uint64(places - 2)


@compiled(forceinline=True)
def _find(
    four: NDArray[np.uint64],
    six: NDArray[np.uint64],
    seed: np.uint64,
    w0: np.uint64,
    w1: np.uint64,
    version: int,
) -> tuple[bool, np.uint64, np.uint64]:
    """Return whether an address is known, and what it becomes."""
    if w0 | w1 == 0:
        return False, w0, w1
    if version == 4:
        at = _place(w0, w1, seed, len(four))
        entry = four[at]
        if entry >> _S32 != w0:
            entry = four[at + _1]
        return entry >> _S32 == w0, entry & _LOW32, w1
    at = _place(w0, w1, seed, len(six))
    if six[at, 0] != w0 or six[at, 1] != w1:
        at += _1
    return six[at, 0] == w0 and six[at, 1] == w1, six[at, 2], six[at, 3]


@compiled(forceinline=True)
def _is_larger(a0: np.uint64, a1: np.uint64, b0: np.uint64, b1: np.uint64) -> int:
    """Return 1 where address a is the larger one, 0 where both are equal, else -1."""
    left, right = swapped(a0), swapped(b0)
    if left == right:
        left, right = swapped(a1), swapped(b1)
    return np.int64(left > right) - np.int64(left < right)  # type: ignore[return-value]


@compiled(forceinline=True)
def _write(
    columns: PacketColumns, row: int, a0: np.uint64, a1: np.uint64, b0: np.uint64, b1: np.uint64
) -> None:
    """Write anonymised endpoints in their canonical order, and the hash of what the five-tuple is now."""
    port_a, port_b = np.int64(columns.port_a[row]), np.int64(columns.port_b[row])
    protocol, version = columns.protocol[row], columns.ip_version[row]
    if is_reversed(_is_larger(a0, a1, b0, b1), (port_a << 16) | port_b, protocol):
        a0, a1, b0, b1, port_a, port_b = b0, b1, a0, a1, port_b, port_a
        columns.port_a[row], columns.port_b[row] = port_a, port_b
        columns.direction[row] ^= 1
    columns.address_a[row, 0], columns.address_a[row, 1] = a0, a1
    columns.address_b[row, 0], columns.address_b[row, 1] = b0, b1
    columns.flow_hash[row] = hash_words(a0, a1, b0, b1, port_a, port_b, protocol, version)


@compiled
def _anonymise_known(columns: PacketColumns, start: int, stop: int, known: Known, new: New) -> None:
    """Anonymise the rows whose addresses are known, and list the others in ``new``.

    Arrays are taken out of their tuples here: reaching into a tuple inside the loop, or handing it to a function, would
    count references for each packet.
    """
    address_a, address_b, versions = columns.address_a, columns.address_b, columns.ip_version
    four, six, seed, new_row = known.four, known.six, known.seed[0], new.row
    listed = 0
    for row in range(start, stop):
        version = versions[row]
        knows_a, a0, a1 = _find(four, six, seed, address_a[row, 0], address_a[row, 1], version)
        knows_b, b0, b1 = _find(four, six, seed, address_b[row, 0], address_b[row, 1], version)
        if not (knows_a and knows_b):
            new_row[listed] = row
            listed += 1
            continue
        _write(columns, row, a0, a1, b0, b1)
    new.filled[1] = listed


@compiled
def _list_new(
    column: NDArray[np.uint64], versions: NDArray[np.uint8], known: Known, new: New, number: NDArray[np.int64]
) -> None:
    """List the addresses of the rows listed, each once, known or not; write their numbers to ``number``."""
    rows, word, version_of, places, seed = new.row, new.word, new.version, new.places, known.seed[0]
    begun, filled, mask = new.begun[0], new.filled[0], np.uint64(len(places) - 1)
    for i in range(new.filled[1]):
        row = rows[i]
        w0, w1, version = column[row, 0], column[row, 1], versions[row]
        at = _place(w0, w1, seed, len(places))
        n = places[at] - begun
        while n >= 0 and (word[n, 0] != w0 or word[n, 1] != w1 or version_of[n] != version):
            at = (at + _1) & mask
            n = places[at] - begun
        if n < 0:
            n = filled
            filled += 1
            places[at] = begun + n
            word[n, 0], word[n, 1], version_of[n] = w0, w1, version
        number[i] = n
    new.filled[0] = filled


@compiled
def _anonymise_new(columns: PacketColumns, anonymised: NDArray[np.uint64], known: Known, new: New) -> None:
    """Anonymise the rows listed, now that what becomes of their addresses is known, and keep that."""
    four, six, seed, rows, in_a, in_b = known.four, known.six, known.seed[0], new.row, new.a, new.b
    word, versions = new.word, new.version
    for i in range(new.filled[1]):
        a, b = in_a[i], in_b[i]
        _write(columns, rows[i], anonymised[a, 0], anonymised[a, 1], anonymised[b, 0], anonymised[b, 1])
    for n in range(new.filled[0]):
        w0, w1 = word[n, 0], word[n, 1]
        if versions[n] == 4:
            at = _place(w0, w1, seed, len(four))
            if four[at] >> _S32 != w0:
                four[at + _1] = four[at]
                four[at] = (w0 << _S32) | anonymised[n, 0]
        else:
            at = _place(w0, w1, seed, len(six))
            if six[at, 0] != w0 or six[at, 1] != w1:
                for i in range(4):
                    six[at + _1, i] = six[at, i]
                six[at, 0], six[at, 1], six[at, 2], six[at, 3] = w0, w1, anonymised[n, 0], anonymised[n, 1]


class AddressAnonymiser:
    """Anonymises the addresses of packet columns, in place."""

    def __init__(self, pan: CryptoPan) -> None:
        self._pan = pan
        self._known = Known(
            np.zeros(_FOUR, np.uint64),
            np.zeros((_SIX, 4), np.uint64),
            np.array([secrets.randbits(64)], np.uint64),
        )
        self._new = _allocate(1)
        self.computed = 0
        """Addresses that were computed, not looked up."""

    def words(self, words: NDArray[np.uint64], version: int) -> NDArray[np.uint64]:
        """Return addresses of one IP version anonymised; (rows, 2), as the columns' words."""
        out = words.byteswap()
        self._pan.anonymise(out, version)
        return out.byteswap()

    def rows(self, columns: PacketColumns, start: int, stop: int) -> None:
        """Anonymise the rows from ``start`` up to ``stop``, their flow hash and direction with them.

        Args:
            columns: with addresses as words (``producers.decoder.kernel.writable``).
            start: the first row.
            stop: the row after the last.
        """
        if len(self._new.row) < stop - start:
            self._new = _allocate(stop - start)
        new = self._new
        _anonymise_known(columns, start, stop, self._known, new)
        if new.filled[1]:
            new.begun[0] += new.filled[0]
            new.filled[0] = 0
            _list_new(columns.address_a, columns.ip_version, self._known, new, new.a)  # type: ignore[arg-type]
            _list_new(columns.address_b, columns.ip_version, self._known, new, new.b)  # type: ignore[arg-type]
            count = int(new.filled[0])
            self.computed += count
            anonymised = np.empty((count, 2), np.uint64)
            for version in (4, 6):
                chosen = np.flatnonzero(new.version[:count] == version)
                if len(chosen):
                    anonymised[chosen] = self.words(new.word[chosen], version)
            _anonymise_new(columns, anonymised, self._known, new)
