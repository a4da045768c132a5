"""The frames of a capture as records of a classic pcap in memory, split by link type."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from producers.columns import PacketColumns, allocate
from producers.decoder.kernel import Frames, allocate_frames
from producers.decoder.spans import Spans
from producers.decoder.state import DecodeState, allocate_state
from producers.names.spots import Spots
from producers.sources.pcap import PcapReader, is_pcap, walk_pcap
from producers.sources.pcapng import PcapngReader, is_pcapng, walk_pcapng
from producers.sources.reader import CONTROL, Reader
from producers.sources.window import CHUNK_OCTETS, MAGIC_OCTETS, CorruptStream, Window, open_window
from schemas.errors import InputError

RECORD_OCTETS = 16
_ROOM = 4096
_NS = 1_000_000_000


@dataclass
class Records:
    """Records of one link type: little-endian, with nanoseconds, each behind its 16-byte header."""

    raw: list[NDArray[np.uint8]] = field(default_factory=list)
    starts: list[NDArray[np.int64]] = field(default_factory=list)
    """Where records begin, from the start of all of ``raw``."""
    octets: int = 0

    def extend(self, raw: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        """Append records; ``starts`` count from the start of this ``raw``."""
        self.raw.append(raw)
        self.starts.append(starts + self.octets)
        self.octets += len(raw)


class FrameSink:
    """Takes frames in and keeps them as records whose times are moved by whole seconds."""

    def __init__(self, limit_octets: int) -> None:
        self.by_link_type: dict[int, Records] = {}
        self.frames = self.octets = 0
        self.first_ns = self.last_ns = 0
        self.offset_s = 0
        self._limit = limit_octets

    @property
    def full(self) -> bool:
        """Return whether it holds as much as it may."""
        return self.octets >= self._limit

    def take(self, raw: NDArray[np.uint8], frames: Frames, count: int) -> None:
        """Copy the first ``count`` frames out of ``raw``."""
        for link_type in np.unique(frames.link_type[:count]):
            chosen = np.flatnonzero(frames.link_type[:count] == link_type)
            out = np.empty(int(frames.captured[chosen].sum()) + RECORD_OCTETS * len(chosen), np.uint8)
            starts = np.empty(len(chosen), np.int64)
            _copy(raw, frames, chosen, self.offset_s, out, starts)
            self.by_link_type.setdefault(int(link_type), Records()).extend(out, starts)
            self.octets += len(out)
        if count:
            times = frames.time_ns[:count] + self.offset_s * _NS
            self.first_ns = int(times.min()) if not self.frames else min(self.first_ns, int(times.min()))
            self.last_ns = max(self.last_ns, int(times.max()))
        self.frames += count


@njit(cache=True, nogil=True)
def _copy(
    raw: NDArray[np.uint8],
    frames: Frames,
    chosen: NDArray[np.int64],
    offset_s: int,
    out: NDArray[np.uint8],
    starts: NDArray[np.int64],
) -> None:
    at = 0
    for k in range(len(chosen)):
        i = chosen[k]
        starts[k] = at
        time_ns, captured = max(frames.time_ns[i], 0), frames.captured[i]
        head = (time_ns // _NS + offset_s, time_ns % _NS, captured, max(captured, frames.original[i]))
        for word in head:
            for byte in range(4):
                out[at] = (word >> (8 * byte)) & 0xFF
                at += 1
        start = frames.start[i]
        out[at : at + captured] = raw[start : start + captured]
        at += captured


class _PcapFrames(PcapReader):
    def __init__(self, window: Window, sink: FrameSink) -> None:
        super().__init__(window)
        self._sink, self._list = sink, allocate_frames(_ROOM)

    def _decode(
        self, columns: PacketColumns, row: int, state: DecodeState, spans: Spans | None, spots: Spots | None
    ) -> tuple[int, int]:
        window = self.window
        at, count, stopped = walk_pcap(window.raw, window.start, window.end, self._header, self._list, _ROOM)
        self._sink.take(window.raw, self._list, count)
        window.start = at
        return row, stopped


class _PcapngFrames(PcapngReader):
    def __init__(self, window: Window, sink: FrameSink) -> None:
        super().__init__(window)
        self._sink, self._list = sink, allocate_frames(_ROOM)

    def _decode(
        self, columns: PacketColumns, row: int, state: DecodeState, spans: Spans | None, spots: Spots | None
    ) -> tuple[int, int]:
        window = self.window
        at, count, stopped = walk_pcapng(
            window.raw, window.start, window.end, self._big, self._interfaces, self._interface_count,
            self._clock, self._list, _ROOM, state.counts,
        )  # fmt: skip
        self._sink.take(window.raw, self._list, count)
        window.start = at
        return row, self._control() if stopped == CONTROL else stopped


def read_frames(path: str, sink: FrameSink) -> None:
    """Put the frames of a capture into ``sink`` until it is full.

    Raises:
        InputError: it is missing, unreadable or no capture.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            head = file.read(MAGIC_OCTETS)
            window = open_window(file, head, False, CHUNK_OCTETS)  # type: ignore[arg-type]
            try:
                reader = _reader(window, sink)
                columns, state = allocate(1), allocate_state()
                while not reader.at_end and not sink.full:
                    reader.fill(columns, state)
            finally:
                window.close()
    except (ValueError, CorruptStream) as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _reader(window: Window, sink: FrameSink) -> Reader:
    while window.end - window.start < MAGIC_OCTETS and window.more():
        pass
    head = window.raw[window.start : window.end][:MAGIC_OCTETS].tobytes()
    if is_pcap(head):
        return _PcapFrames(window, sink)
    if is_pcapng(head):
        return _PcapngFrames(window, sink)
    raise ValueError("is neither a pcap nor a pcapng capture")
