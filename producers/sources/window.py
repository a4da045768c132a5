"""The bytes of a capture that are in memory: a window that slides over a plain or compressed stream.

Plain files are read too, not mapped: copying into a buffer that stays in the cache costs less than the page
faults of a map (measured on full-size packets from the page cache: 16 million packets/s read, 8 million mapped).
"""

from __future__ import annotations

import zlib
from typing import IO, BinaryIO, Protocol, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

CHUNK_OCTETS = 1 << 20
"""About the second-level cache of a core."""
_COMPRESSED_OCTETS = 256 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes((n, 0x2A, 0x4D, 0x18)) for n in range(0x50, 0x60))
MAGIC_OCTETS = 4


class CorruptStream(Exception):
    """Compressed data that cannot be expanded any further; the message says why."""


class Expander(Protocol):
    """A source of expanded bytes."""

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of the file, as stored, were consumed."""

    def read_into(self, room: memoryview) -> int:
        """Fill some of ``room``; return how many bytes, 0 at the end. Raises CorruptStream."""


class Window:
    """A part of a capture in memory: one chunk, or one record where that is larger.

    ``raw[start:end]`` are the unread bytes; readers move ``start``. ``raw`` is read-only, begins at ``origin``
    of the (expanded) capture, and may be another array after ``more``.
    """

    raw: NDArray[np.uint8]

    def __init__(self, source: Expander, chunk_octets: int = CHUNK_OCTETS, live: bool = False) -> None:
        self._source = source
        self._chunk = chunk_octets
        self._fault: Exception | None = None
        self.live = live
        self.start = self.end = self.origin = 0
        self._allocate(chunk_octets)

    def _allocate(self, size: int) -> None:
        self._bytes = np.empty(size, np.uint8)
        self.raw = self._bytes.view()
        self.raw.flags.writeable = False

    def more(self) -> bool:
        """Move the unread bytes to the front and fill the rest; return False at the end of the capture.

        Raises CorruptStream or OSError where reading on fails; what came before has been given then.
        """
        kept = self._bytes[self.start : self.end]
        if len(kept) >= len(self._bytes) - self._chunk // 2:
            self._allocate(len(kept) + self._chunk)
        self._bytes[: len(kept)] = kept
        self.origin += self.start
        self.start, self.end = 0, len(kept)
        room = memoryview(self._bytes)  # type: ignore[arg-type]
        before = self.end
        while self.end < len(self._bytes) and self._fault is None:
            try:
                count = self._source.read_into(room[self.end :])
            except (CorruptStream, OSError) as error:
                self._fault = error
                break
            self.end += count
            if count == 0 or self.live:
                break
        # What came before the fault is used first.
        if self._fault and self.end == before:
            raise self._fault
        return self.end > before

    @property
    def bytes_read(self) -> int:
        """Return how many bytes of the file, as stored, were consumed."""
        return self._source.bytes_read

    def close(self) -> None:
        """Let go of the memory."""
        self.start = self.end = 0
        self._allocate(0)


class _Counted:
    """A file with its first bytes put back in front, that counts what was read."""

    def __init__(self, file: BinaryIO, head: bytes) -> None:
        self._file = file
        self._head = head
        self.bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        if self._head:
            size = len(self._head) if size < 0 else size
            out, self._head = self._head[:size], self._head[size:]
        else:
            out = self._file.read(size) or b""
        self.bytes_read += len(out)
        return out

    def read_into(self, room: memoryview) -> int:
        if self._head:
            data = self.read(len(room))
            room[: len(data)] = data
            return len(data)
        count: int = self._file.readinto(room) or 0  # type: ignore[attr-defined]
        self.bytes_read += count
        return count


class PlainSource:
    """Bytes as they are."""

    def __init__(self, file: _Counted) -> None:
        self._file = file

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were consumed."""
        return self._file.bytes_read

    def read_into(self, room: memoryview) -> int:
        """Fill some of ``room``; return how many bytes, 0 at the end."""
        return self._file.read_into(room)


class GzipSource(PlainSource):
    """Gzip, of one or more members; what follows the last member, if it is no member, is corrupt."""

    def __init__(self, file: _Counted) -> None:
        super().__init__(file)
        self._member = zlib.decompressobj(wbits=31)
        self._pending = b""

    def read_into(self, room: memoryview) -> int:
        """Fill some of ``room``; return how many bytes, 0 at the end. Raises CorruptStream."""
        while True:
            if self._member.eof:
                self._pending = self._after_member()
                if not self._pending:
                    return 0
                self._member = zlib.decompressobj(wbits=31)
            elif not self._pending:
                self._pending = self._file.read(_COMPRESSED_OCTETS)
                if not self._pending:
                    raise CorruptStream("its gzip data ends early")
            try:
                out = self._member.decompress(self._pending, len(room))
            except zlib.error as error:
                raise CorruptStream(f"its gzip data is corrupt ({error})") from None
            self._pending = self._member.unconsumed_tail
            if out:
                room[: len(out)] = out
                return len(out)

    def _after_member(self) -> bytes:
        """Return what follows a member and the padding with zeros that may come after it."""
        data = self._member.unused_data.lstrip(b"\0")
        while not data:
            padded = self._file.read(_COMPRESSED_OCTETS)
            if not padded:
                break
            data = padded.lstrip(b"\0")
        return data


class ZstdSource(PlainSource):
    """Zstandard, of one or more frames."""

    def __init__(self, file: _Counted) -> None:
        super().__init__(file)
        self._reader = zstandard.ZstdDecompressor().stream_reader(
            cast(IO[bytes], file), read_across_frames=True
        )

    def read_into(self, room: memoryview) -> int:
        """Fill some of ``room``; return how many bytes, 0 at the end. Raises CorruptStream."""
        try:
            return int(self._reader.readinto1(room))
        except zstandard.ZstdError as error:
            raise CorruptStream(f"its zstd data is corrupt ({error})") from None


def is_compressed(head: bytes) -> bool:
    """Return whether a file that begins with these MAGIC_OCTETS bytes is compressed in a way that we expand."""
    return head.startswith(_GZIP_MAGIC) or head == _ZSTD_MAGIC or head in _ZSTD_SKIPPABLE


def open_source(file: BinaryIO, head: bytes) -> Expander:
    """Return the bytes of an open file, expanded; arguments as of ``open_window``."""
    counted = _Counted(file, head)
    if not is_compressed(head):
        return PlainSource(counted)
    return GzipSource(counted) if head.startswith(_GZIP_MAGIC) else ZstdSource(counted)


def open_window(file: BinaryIO, head: bytes, live: bool, chunk_octets: int) -> Window:
    """Return the window over an open capture file.

    Args:
        file: unbuffered; ``head`` has been read from it.
        head: its first MAGIC_OCTETS bytes (fewer where it ends before), which tell the compression.
        live: whether somebody else may still be writing to it (a pipe), so that ``more`` takes what there is.
        chunk_octets: bytes held at a time.
    """
    return Window(open_source(file, head), chunk_octets, live)
