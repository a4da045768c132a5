"""What the readers of all capture formats share: decode until full, read on, tell how the capture ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.reasons import counters_of
from producers.decoder.spans import Spans
from producers.decoder.state import DecodeState
from producers.names.finder import NameFinder
from producers.names.spots import Spots
from producers.privacy.privacy import Privacy
from producers.sources.window import CorruptStream, Window

MAX_CAPTURED = 262_144
"""Largest packet of a sane capture, in octets (libpcap's MAXIMUM_SNAPLEN)."""

# What stopped a kernel: the columns are full; a record is not complete; a length is absurd; a block that
# Python has to look at.
FULL, NEEDS_MORE, ABSURD, CONTROL = 0, 1, 2, 3


class Tap(Protocol):
    """Who wants payloads: looks at packets while the bytes they were decoded from are still in memory."""

    @property
    def spans(self) -> Spans:
        """Where payloads lie, one row per row of the columns."""

    def begin(self, rows: int) -> None:
        """Forget the last block; the next one has at most so many rows."""

    def take(self, raw: NDArray[np.uint8], columns: PacketColumns, start: int, stop: int) -> None:
        """Look at the rows from ``start`` up to ``stop``, whose payloads lie in ``raw``."""


class Reader(ABC):
    """Decodes the records of a capture out of a window."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.at_end = False
        """Whether nothing can follow."""
        self.warning = ""
        """What is wrong with the capture's end; empty where nothing is."""
        self.names: NameFinder | None = None
        """Who reads the packets that may tell a name, while their bytes are in the window."""
        self.privacy: Privacy | None = None
        """What hides addresses, once names were looked for and before anybody else sees the packets."""

    def fill(
        self,
        columns: PacketColumns,
        state: DecodeState,
        tap: Tap | None = None,
        spots: Spots | None = None,
    ) -> int:
        """Write packets into the columns (``writable`` ones) until they are full; return how many.

        Fewer packets mean the end of the capture, or that a live stream would have to be waited for. A ``tap`` is
        shown each packet; ``spots`` is where those that may tell a name are noted for ``names``.
        """
        window, row, spans = self.window, 0, None
        if tap is not None:
            tap.begin(len(columns.time_ns))
            spans = tap.spans
        while not self.at_end:
            first = row
            row, stopped = self._decode(columns, row, state, spans, spots)
            if self.names is not None and spots is not None and spots.noted[0]:
                self.names.read(window.raw, columns)
            if self.privacy is not None:
                self.privacy.rows(columns, first, row)
            if tap is not None and row > first:
                tap.take(window.raw, columns, first, row)
            if stopped == FULL or (stopped == NEEDS_MORE and row and window.live):
                break
            if stopped == ABSURD:
                self._end("holds an absurd record length, so that reading stopped")
            elif stopped == NEEDS_MORE:
                self._read_on(state)
        return row

    @abstractmethod
    def _decode(
        self, columns: PacketColumns, row: int, state: DecodeState, spans: Spans | None, spots: Spots | None
    ) -> tuple[int, int]:
        """Decode from ``row`` on, moving ``window.start``; return the next row and what stopped."""

    @abstractmethod
    def _count_cut(self, state: DecodeState) -> bool:
        """Count the packet that the capture's last bytes begin; return False where they do not begin one."""

    def _read_on(self, state: DecodeState) -> None:
        window, fault = self.window, ""
        try:
            if window.more():
                return
        except CorruptStream as error:
            fault = f"{error}; "
        before = _read(state)
        if self._count_cut(state):
            self._end(f"{fault}ends inside packet {before + 1}")
        elif fault or window.end > window.start:
            self._end(f"{fault}ends after packet {before}, not at the end of a record,")
        else:
            self._end("")

    def _end(self, warning: str) -> None:
        self.at_end = True
        if warning:
            self.warning = f"{warning} at byte {self.window.origin + self.window.start}"


def need(window: Window, octets: int) -> bool:
    """Read on until the window holds that many unread bytes; return False where the capture ends before."""
    while window.end - window.start < octets:
        if not window.more():
            return False
    return True


def _read(state: DecodeState) -> int:
    return counters_of(state.counts).read
