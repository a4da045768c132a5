"""Classic pcap: the file header, and the walk over its records."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.kernel import Frames, allocate_frames, decode_frames
from producers.decoder.link import LINK_TYPES
from producers.decoder.octets import u32
from producers.decoder.reasons import ABSURD_LENGTH, CUT_RECORD
from producers.decoder.spans import Spans
from producers.decoder.state import DecodeState
from producers.names.spots import Spots
from producers.sources.reader import ABSURD, FULL, MAX_CAPTURED, NEEDS_MORE, Reader, need
from producers.sources.window import Window
from schemas.compiled import compiled

HEADER_OCTETS = 24
# Magic as the first four bytes read big-endian -> (big-endian, nanoseconds, octets of a record header).
_MAGIC = {
    0xA1B2C3D4: (True, False, 16),
    0xD4C3B2A1: (False, False, 16),
    0xA1B23C4D: (True, True, 16),
    0x4D3CB2A1: (False, True, 16),
    # Patched libpcap of old Linux kernels: eight more octets in each record header.
    0xA1B2CD34: (True, False, 24),
    0x34CDB2A1: (False, False, 24),
}


class PcapHeader(NamedTuple):
    """What a classic pcap's file header tells."""

    big_endian: bool
    tick_ns: int
    """Unit of the fraction of a second in record headers."""
    record_octets: int
    """Length of a record's header."""
    link_type: int


def is_pcap(head: bytes) -> bool:
    """Return whether a file that starts with ``head`` is a classic pcap."""
    return len(head) >= 4 and int.from_bytes(head[:4], "big") in _MAGIC


def parse_header(head: bytes) -> PcapHeader:
    """Return the file header; raises ValueError, with the reason, where it cannot be used."""
    if len(head) < HEADER_OCTETS:
        raise ValueError(f"ends inside its file header, at byte {len(head)}")
    big_endian, nanoseconds, record_octets = _MAGIC[int.from_bytes(head[:4], "big")]
    # The upper bits hold the length of a frame check sequence.
    link_type = struct.unpack_from(">I" if big_endian else "<I", head, 20)[0] & 0x03FFFFFF
    if link_type not in LINK_TYPES:
        raise ValueError(f"link type {link_type} is not supported")
    return PcapHeader(big_endian, 1 if nanoseconds else 1000, record_octets, link_type)


@compiled(error_model="numpy")
def walk_pcap(
    raw: NDArray[np.uint8], at: int, end: int, header: PcapHeader, frames: Frames, room: int
) -> tuple[int, int, int]:
    """List up to ``room`` records of ``raw[at:end]``; return (next record, frames listed, what stopped)."""
    big, head = header.big_endian, header.record_octets
    count = 0
    while count < room:
        if end - at < head:
            return at, count, NEEDS_MORE
        captured = u32(raw, at + 8, big)
        if captured > MAX_CAPTURED:
            return at, count, ABSURD
        if end - at - head < captured:
            return at, count, NEEDS_MORE
        frames.start[count] = at + head
        frames.captured[count] = captured
        frames.original[count] = u32(raw, at + 12, big)
        frames.time_ns[count] = u32(raw, at, big) * 1_000_000_000 + u32(raw, at + 4, big) * header.tick_ns
        frames.link_type[count] = header.link_type
        at += head + captured
        count += 1
    return at, count, FULL


@compiled(error_model="numpy")
def decode_pcap(
    raw: NDArray[np.uint8],
    at: int,
    end: int,
    header: PcapHeader,
    frames: Frames,
    out: PacketColumns,
    row: int,
    state: DecodeState,
    spans: Spans | None,
    spots: Spots | None,
) -> tuple[int, int, int]:
    """Decode the records of ``raw[at:end]`` into ``out`` from ``row`` on, as long as there is room.

    Returns:
        The next record's position, the row after the last one written, and what stopped: FULL (no room),
        NEEDS_MORE (the record is not complete before ``end``) or ABSURD (an absurd length, counted here).
    """
    rows = len(out.time_ns)
    stopped = FULL
    while stopped == FULL and row < rows:
        at, count, stopped = walk_pcap(raw, at, end, header, frames, min(len(frames.start), rows - row))
        row = decode_frames(raw, frames, count, out, row, state, spans, spots)
    if stopped == ABSURD:
        state.counts[ABSURD_LENGTH] += 1
    return at, row, stopped


class PcapReader(Reader):
    """Reads a classic pcap."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        need(window, HEADER_OCTETS)
        self._header = parse_header(window.raw[window.start : window.end][:HEADER_OCTETS].tobytes())
        window.start += HEADER_OCTETS
        self._frames = allocate_frames()

    def _decode(
        self, columns: PacketColumns, row: int, state: DecodeState, spans: Spans | None, spots: Spots | None
    ) -> tuple[int, int]:
        window = self.window
        window.start, row, stopped = decode_pcap(
            window.raw,
            window.start,
            window.end,
            self._header,
            self._frames,
            columns,
            row,
            state,
            spans,
            spots,
        )
        return row, stopped

    def _count_cut(self, state: DecodeState) -> bool:
        if self.window.end - self.window.start < self._header.record_octets:
            return False
        state.counts[CUT_RECORD] += 1
        return True
