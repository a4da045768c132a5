"""Ports for the fragments of a datagram: only its first fragment carries them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SLOTS = 4096
VALID_NS = 30_000_000_000
_SLOT_MASK = np.uint64(SLOTS - 1)


class Fragments(NamedTuple):
    """A direct-mapped cache of first fragments: a newer datagram takes the slot of an older one."""

    key: NDArray[np.uint64]
    """Hash of (source, destination, identification, protocol); 0 where the slot is empty."""
    time_ns: NDArray[np.int64]
    value: NDArray[np.int64]
    """What the first fragment told: protocol << 32 | source port << 16 | destination port."""


def allocate_fragments() -> Fragments:
    """Return an empty cache."""
    return Fragments(np.zeros(SLOTS, np.uint64), np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64))


@njit(cache=True, nogil=True)
def remember(cache: Fragments, key: np.uint64, time_ns: int, value: int) -> None:
    """Store what a first fragment told."""
    slot = key & _SLOT_MASK
    cache.key[slot] = key
    cache.time_ns[slot] = time_ns
    cache.value[slot] = value


@njit(cache=True, nogil=True)
def recall(cache: Fragments, key: np.uint64, time_ns: int) -> int:
    """Return what the first fragment of this datagram told within the last 30 s of event time, or -1."""
    slot = key & _SLOT_MASK
    if cache.key[slot] != key or abs(time_ns - cache.time_ns[slot]) > VALID_NS:
        return -1
    return cache.value[slot]
