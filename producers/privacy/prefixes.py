"""Which bits of an address are anonymised, where prefixes are named.

Crypto-PAn flips each bit by a function of the bits before it. Leaving bits alone by the bits before them keeps what it
promises: the map stays one to one, and addresses that share a prefix still do.

- ``only``: the bits of a named prefix stay, those behind it are anonymised; other addresses stay as they are.
- ``keep``: a named prefix stays as it is, and so must the bits on the way to it: or another address could come to
  lie in it.

An address stands as two words, the first bit highest; an IPv4 address in the upper half of the first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled

BITS = 128
"""A first bit that no address has: none is anonymised."""


class Prefixes(NamedTuple):
    """Disjoint prefixes in order; a named tuple, so that Numba takes it."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    bits: NDArray[np.int64]


class Rules(NamedTuple):
    """The prefixes of one IP version."""

    is_limited: bool
    """Whether only some prefixes are anonymised."""
    only: Prefixes
    keep: Prefixes


def make_rules(only: Sequence[str], keep: Sequence[str], version: int) -> Rules:
    """Return the rules of an IP version; prefixes of the other one are left out, but limit this one too."""
    return Rules(bool(only), _prefixes(only, version), _prefixes(keep, version))


def _prefixes(texts: Iterable[str], version: int) -> Prefixes:
    if version == 4:
        four = [n for t in texts if isinstance(n := ipaddress.ip_network(t), ipaddress.IPv4Network)]
        found = [(int(n.network_address) << 96, n.prefixlen) for n in ipaddress.collapse_addresses(four)]
    else:
        six = [n for t in texts if isinstance(n := ipaddress.ip_network(t), ipaddress.IPv6Network)]
        found = [(int(n.network_address), n.prefixlen) for n in ipaddress.collapse_addresses(six)]
    found.sort()
    return Prefixes(
        np.array([start >> 64 for start, _ in found], np.uint64),
        np.array([start & 0xFFFFFFFFFFFFFFFF for start, _ in found], np.uint64),
        np.array([bits for _, bits in found], np.int64),
    )


@compiled
def first_bit(rules: Rules, high: np.uint64, low: np.uint64) -> int:
    """Return the number of an address's first bit that is anonymised, as all after it are; BITS for none."""
    first = 0
    if rules.is_limited:
        at = _before(rules.only, high, low)
        if at < 0 or _common(rules.only, at, high, low) < rules.only.bits[at]:
            return BITS
        first = rules.only.bits[at]
    if len(rules.keep.bits):
        at = _before(rules.keep, high, low)
        for near in range(max(at, 0), min(at + 2, len(rules.keep.bits))):
            common = _common(rules.keep, near, high, low)
            if common >= rules.keep.bits[near]:
                return BITS
            first = max(first, common + 1)
    return first


@compiled
def _before(prefixes: Prefixes, high: np.uint64, low: np.uint64) -> int:
    """Return the number of the last prefix that does not begin after an address, or -1."""
    start, stop = 0, len(prefixes.bits)
    while start < stop:
        middle = (start + stop) >> 1
        if prefixes.high[middle] < high or (prefixes.high[middle] == high and prefixes.low[middle] <= low):
            start = middle + 1
        else:
            stop = middle
    return start - 1


@compiled
def _common(prefixes: Prefixes, at: int, high: np.uint64, low: np.uint64) -> int:
    """Return how many first bits an address shares with the first address of a prefix."""
    different = high ^ prefixes.high[at]
    shared = 0
    if different == 0:
        different, shared = low ^ prefixes.low[at], 64
        if different == 0:
            return BITS
    half = np.uint64(32)
    while half:
        if different >> (np.uint64(64) - half) == 0:
            different <<= half
            shared += int(half)
        half >>= np.uint64(1)
    return shared
