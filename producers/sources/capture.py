"""Captures: pcap and pcapng files and streams, decoded into packet columns block by block."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from producers.columns import PacketColumns, allocate
from producers.decoder.kernel import writable
from producers.decoder.reasons import UNKNOWN_LINK_TYPE, DecodeCounters, counters_of
from producers.decoder.state import allocate_state
from producers.names.finder import NameFinder
from producers.privacy.privacy import Privacy
from producers.sources.pcap import PcapReader, is_pcap
from producers.sources.pcapng import PcapngReader, is_pcapng
from producers.sources.reader import Reader, Tap, need
from producers.sources.window import CHUNK_OCTETS, MAGIC_OCTETS, CorruptStream, Window, open_window
from schemas.errors import InputError
from schemas.packets import NO_EXTRA, Extra

STDIN = "-"


class Capture:
    """An open capture; use it as a context manager. Made by ``open_capture``."""

    def __init__(
        self,
        path: str,
        file: BinaryIO,
        size: int | None,
        chunk_octets: int,
        names: NameFinder | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self.path = path
        self.name = "standard input" if path == STDIN else path
        self.size = size
        """Bytes of the file as stored (compressed, if it is); None for a pipe."""
        self.warnings: list[str] = []
        """What is wrong with the capture, one line each naming it; complete once ``blocks`` has ended."""
        self._file = file
        self._state = allocate_state()
        self._window: Window | None = None
        self._reader = self._open(chunk_octets)
        self._reader.names, self._reader.privacy = names, privacy

    def _open(self, chunk_octets: int) -> Reader:
        try:
            head = _read_head(self._file)
            if not head:
                raise InputError(f"{self.name}: is empty, not a capture")
            self._window = open_window(self._file, head, self.size is None, chunk_octets)
            return reader_for(self._window)
        except (ValueError, CorruptStream) as error:
            raise InputError(f"{self.name}: {error}") from None
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read: {error.strerror or error}") from None

    def blocks(
        self, max_packets: int = 8192, extra: Extra = NO_EXTRA, tap: Tap | None = None
    ) -> Iterator[PacketColumns]:
        """Yield the packets in file order, ``max_packets`` at a time (fewer at the end, or from a pipe).

        ``extra`` says which columns to fill beyond the usual ones; a ``tap`` is shown each block's packets with
        their payloads, before the block is yielded.
        Blocks are views over columns that are used again: copy what shall outlive the next iteration.

        Raises:
            InputError: a link type that cannot be decoded is the only one in the capture, or reading failed.
        """
        columns = allocate(max_packets, extra)
        target, names = writable(columns), self._reader.names
        spots = None if names is None else names.spots(max_packets)
        while not self._reader.at_end:
            try:
                rows = self._reader.fill(target, self._state, tap, spots)
            except OSError as error:
                raise InputError(f"{self.name}: cannot be read: {error.strerror or error}") from None
            if rows:
                yield columns.head(rows)
        if self._reader.warning:
            self.warnings[:] = [f"{self.name}: {self._reader.warning}"]
        counters = self.counters
        if counters.read and counters.read == self._state.counts[UNKNOWN_LINK_TYPE]:
            raise InputError(f"{self.name}: none of its link types is supported")

    @property
    def counters(self) -> DecodeCounters:
        """Return what became of the packets read so far."""
        return counters_of(self._state.counts)

    @property
    def bytes_read(self) -> int:
        """Return how many of the ``size`` bytes have been read."""
        return self._window.bytes_read if self._window else 0

    def close(self) -> None:
        """Close the file; blocks yielded before stay valid."""
        if self._window:
            self._window.close()
        if self.path != STDIN:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_capture(
    path: str,
    *,
    chunk_octets: int = CHUNK_OCTETS,
    names: NameFinder | None = None,
    privacy: Privacy | None = None,
) -> Capture:
    """Open a pcap or pcapng capture, plain or compressed with gzip or zstd; the content tells which.

    Args:
        path: a file or a named pipe; ``-`` is standard input.
        chunk_octets: bytes held in memory at a time, or one record where that is larger.
        names: finds the names that packets tell; after each block it has those of its rows. None: nobody looks.
        privacy: hides addresses, before blocks are yielded and taps see them. None: nothing is hidden.

    Raises:
        InputError: it is missing, unreadable, empty, no capture, or its link type is not supported.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise InputError("standard input: is closed")
        file = sys.stdin.buffer
        return Capture(path, getattr(file, "raw", file), None, chunk_octets, names, privacy)
    try:
        opened = Path(path).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: {_reason(error)}") from None
    status = Path(path).stat()
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    try:
        return Capture(path, opened, size, chunk_octets, names, privacy)  # type: ignore[arg-type]
    except BaseException:
        opened.close()
        raise


def _reason(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a directory, not a capture"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be opened: {error.strerror or error}"


def _read_head(file: BinaryIO) -> bytes:
    head = b""
    while len(head) < MAGIC_OCTETS:
        data = file.read(MAGIC_OCTETS - len(head))
        if not data:
            break
        head += data
    return head


def reader_for(window: Window) -> Reader:
    """Return the reader of the format that the first bytes tell; raises ValueError where it is none."""
    need(window, 4)
    head = window.raw[window.start : window.end][:4].tobytes()
    if is_pcap(head):
        return PcapReader(window)
    if is_pcapng(head):
        return PcapngReader(window)
    raise ValueError("is neither a pcap nor a pcapng capture")
