"""Ports for the fragments of a datagram: only its first fragment carries them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.decoder.reasons import FRAGMENTS_WITHOUT_FIRST
from producers.decoder.transport import has_ports, ports_at
from schemas.compiled import compiled

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


@compiled
def first_ports(
    raw: NDArray[np.uint8],
    at: int,
    stop: int,
    protocol: int,
    datagram: np.uint64,
    time_ns: int,
    cache: Fragments,
) -> int:
    """Remember what a datagram's first fragment, with its transport header in ``raw[at:stop]``, tells.

    Returns:
        protocol << 32 | source port << 16 | destination port, or -1 where the ports are cut off.
    """
    ports = ports_at(raw, at, stop, protocol)
    if ports < 0:
        return -1
    slot = datagram & _SLOT_MASK
    cache.key[slot] = datagram
    cache.time_ns[slot] = time_ns
    cache.value[slot] = (protocol << 32) | ports
    return cache.value[slot]


@compiled
def later_ports(
    protocol: int, datagram: np.uint64, time_ns: int, cache: Fragments, counts: NDArray[np.int64]
) -> int:
    """Return what the datagram's first fragment told in the last 30 s of event time, or ports 0, counted."""
    slot = datagram & _SLOT_MASK
    if cache.key[slot] == datagram and abs(time_ns - cache.time_ns[slot]) <= VALID_NS:
        return cache.value[slot]
    if has_ports(protocol):
        counts[FRAGMENTS_WITHOUT_FIRST] += 1
    return protocol << 32
