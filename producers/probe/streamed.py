"""A capture that arrives bit by bit, decoded without waiting: what pcap-over-IP and followed files share."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol, cast

from producers.columns import PacketColumns, allocate
from producers.decoder.kernel import writable
from producers.decoder.reasons import counters_of
from producers.decoder.state import allocate_state
from producers.names.told import NOTHING_TOLD, Told
from producers.probe.source import Reading
from producers.sources.capture import reader_for
from producers.sources.reader import Reader
from producers.sources.window import CHUNK_OCTETS, MAGIC_OCTETS, CorruptStream, open_window
from schemas.errors import InputError

_HEAD_OCTETS = 1 << 20
"""Most octets that a capture's head may take, pcapng's descriptions of interfaces among them."""


class NothingYet(Exception):
    """No bytes are at hand; later there may be."""


class Bytes(Protocol):
    """Where a capture's bytes come from."""

    def read(self, size: int) -> bytes:
        """Return some bytes, none at the end; raises NothingYet, or OSError."""


class _Kept:
    """Bytes that are kept while a capture's head is not whole, so that it can be looked at from its beginning again."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._head = b""
        self._at = 0
        self._keeping = True

    def rewind(self) -> None:
        """Begin again with the first byte."""
        self._at = 0

    def let_go(self) -> None:
        """Keep no more: the head is whole."""
        self._keeping = False

    def read(self, size: int = -1) -> bytes:
        """Return some bytes, none at the end."""
        if self._at < len(self._head):
            out = self._head[self._at : self._at + size]
            self._at += len(out)
            if not self._keeping and self._at == len(self._head):
                self._head, self._at = b"", 0
            return out
        out = self._source.read(size)
        if self._keeping:
            self._head += out
            self._at = len(self._head)
            if len(self._head) > _HEAD_OCTETS:
                raise InputError("its head does not end")
        return out

    def readinto(self, room: memoryview) -> int:
        """Fill some of ``room``; return how many bytes, 0 at the end."""
        data = self.read(len(room))
        room[: len(data)] = data
        return len(data)


class StreamedCapture:
    """Decodes a capture, pcap or pcapng, as its bytes come."""

    def __init__(self, name: str, source: Bytes, reading: Reading) -> None:
        self.name, self.at_end = name, False
        self.warning = ""
        """What is wrong with the capture's end; complete once it is ``at_end``."""
        self._bytes = _Kept(source)
        self._state = allocate_state()
        self._reader: Reader | None = None
        self.use(reading)

    def use(self, reading: Reading) -> None:
        """Read so from now on."""
        self._reading = reading
        self._spots = None if reading.names is None else reading.names.spots(reading.block_packets)
        if self._reader is not None:
            self._reader.names, self._reader.privacy = reading.names, reading.privacy
        self._columns = allocate(reading.block_packets, reading.extra)
        self._target = writable(self._columns)

    def read(self) -> tuple[PacketColumns, Told] | None:
        """Return packets and the names they told; None where none are at hand, or at the end.

        Raises:
            InputError: it is no capture, or its link type cannot be decoded.
            OSError: its bytes cannot be read.
        """
        try:
            reader = self._reader = self._reader or self._open()
            rows = (
                0
                if reader is None
                else reader.fill(self._target, self._state, self._reading.tap, self._spots)
            )
        except NothingYet:
            return None
        except CorruptStream as error:
            raise InputError(f"{self.name}: {error}") from None
        if reader is None or reader.at_end:
            self.at_end = True
            self.warning = reader.warning if reader is not None else ""
        told = NOTHING_TOLD if self._reading.names is None else self._reading.names.take()
        return (self._columns.head(rows), told) if rows else None

    def _open(self) -> Reader | None:
        """Return the reader once the capture's head is whole; None where there is not a byte of it."""
        self._bytes.rewind()
        head = b""
        while len(head) < MAGIC_OCTETS and (more := self._bytes.read(MAGIC_OCTETS - len(head))):
            head += more
        if not head:
            return None
        try:
            reader = reader_for(open_window(cast(Any, self._bytes), head, True, CHUNK_OCTETS))
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from None
        self._bytes.let_go()
        reader.names, reader.privacy = self._reading.names, self._reading.privacy
        return reader

    def frames(self) -> Counter[str]:
        """Return the packets read (``read``), and by reason those skipped."""
        counted = counters_of(self._state.counts)
        return Counter(counted.skipped) + Counter(read=counted.read)


def warm_up(reading: Reading) -> None:
    """Have the kernels compiled, or loaded, before packets come."""
    nothing = bytes.fromhex("4d3cb2a1020004000000000000000000ffff000001000000") + bytes(16)

    class _Once:
        left = nothing

        def read(self, size: int) -> bytes:
            out, self.left = self.left[:size], self.left[size:]
            return out

    StreamedCapture("warm-up", _Once(), reading._replace(names=None, tap=None)).read()
