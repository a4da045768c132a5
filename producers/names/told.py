"""What the packets of a block told: names and DNS answers by row, in columns that the batcher's kernel takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.names.text import NAME_ROOM

EVENTS, OCTETS, ADDRESSES = 0, 1, 2
"""What ``Told.filled`` counts."""
MOST_ADDRESSES = 128
"""Addresses that one answer tells."""


class Told(NamedTuple):
    """Events in the order of rows: a packet completed its flow's name, or a DNS answer. A named tuple for Numba."""

    filled: NDArray[np.int64]
    """(3,) events, octets of names, addresses"""
    row: NDArray[np.int64]
    source: NDArray[np.uint8]
    """NameSource; DNS: an answer"""
    name_stop: NDArray[np.int64]
    """Index after the event's name in ``text``, where the next one's begins."""
    address_stop: NDArray[np.int64]
    """Index after the answer's last address in ``address``, where the next event's begin."""
    ttl_s: NDArray[np.int64]
    client: NDArray[np.uint64]
    """(events, 2) address of whoever asked, as words"""
    text: NDArray[np.uint8]
    address: NDArray[np.uint64]
    """(addresses, 2) as words"""
    version: NDArray[np.uint8]
    """IP version of each address"""

    def names(self, start: int, stop: int) -> list[str]:
        """Return the names of the events from ``start`` up to ``stop``."""
        text = self.text.tobytes()
        stops = self.name_stop[start:stop].tolist()
        starts = [int(self.name_stop[start - 1]) if start else 0, *stops]
        return [text[a:b].decode("ascii") for a, b in zip(starts, stops, strict=False)]

    def head(self, events: int) -> Told:
        """Return a copy of the first events."""
        last = self.address_stop[events - 1] if events else 0
        stops = (3, *[events] * 6, self.name_stop[events - 1] if events else 0, last, last)
        columns: list[NDArray[Any]] = list(self)  # type: ignore[arg-type]
        return Told(*(column[:stop].copy() for column, stop in zip(columns, stops, strict=True)))


def allocate_told(events: int = 64, octets: int = 4096, addresses: int = 512) -> Told:
    """Return an empty list with room for so many events, octets of names and addresses."""
    return Told(
        np.zeros(3, np.int64),
        np.zeros(events, np.int64),
        np.zeros(events, np.uint8),
        np.zeros(events, np.int64),
        np.zeros(events, np.int64),
        np.zeros(events, np.int64),
        np.zeros((events, 2), np.uint64),
        np.zeros(octets, np.uint8),
        np.zeros((addresses, 2), np.uint64),
        np.zeros(addresses, np.uint8),
    )


NOTHING_TOLD = allocate_told(0, 0, 0)


def with_room(told: Told) -> Told:
    """Return the list itself where one more event fits, else a copy of twice its size."""
    if not is_full(told):
        return told
    larger = allocate_told(2 * len(told.row), 2 * len(told.text), 2 * len(told.address))
    for name in Told._fields:
        old: NDArray[Any] = getattr(told, name)
        getattr(larger, name)[: len(old)] = old
    return larger


@njit(cache=True, nogil=True)
def is_full(told: Told) -> bool:
    """Return whether there is no room for another event."""
    return bool(
        told.filled[EVENTS] == len(told.row)
        or told.filled[OCTETS] + NAME_ROOM > len(told.text)
        or told.filled[ADDRESSES] + MOST_ADDRESSES > len(told.address)
    )


@njit(cache=True, nogil=True)
def tell(told: Told, row: int, source: int, name: NDArray[np.uint8], length: int) -> None:
    """Append an event, to whose addresses those entered since the last one belong; there must be room."""
    n, at = told.filled[EVENTS], told.filled[OCTETS]
    told.text[at : at + length] = name[:length]
    told.filled[EVENTS], told.filled[OCTETS] = n + 1, at + length
    told.row[n], told.source[n] = row, source
    told.name_stop[n], told.address_stop[n] = at + length, told.filled[ADDRESSES]
