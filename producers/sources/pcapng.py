"""Pcapng: sections, interfaces with their own link types and clocks, and the walk over packet blocks."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.decoder.kernel import Frames, allocate_frames, decode_frames
from producers.decoder.octets import u16, u32
from producers.decoder.reasons import ABSURD_LENGTH, BAD_RECORD, CUT_RECORD, UNKNOWN_INTERFACE
from producers.decoder.spans import Spans
from producers.decoder.state import DecodeState
from producers.names.spots import Spots
from producers.sources.reader import ABSURD, CONTROL, FULL, NEEDS_MORE, Reader
from producers.sources.window import Window
from schemas.compiled import compiled

SECTION, INTERFACE, PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
MAX_BLOCK = 16 << 20
"""Largest block that is taken for one (libpcap's MAX_BLOCKSIZE), in octets."""
MAX_INTERFACES = 65_536

_BYTE_ORDER_BIG, _BYTE_ORDER_LITTLE = b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"
_END_OF_OPTIONS, _TSRESOL, _TSOFFSET = 0, 9, 14
_NS = 1_000_000_000
_MAX_NS = np.uint64(2**63 - 1)

# Columns of the table of interfaces. A clock counts ticks of FACTOR / DIVISOR ns, or, where SHIFT is not
# negative, of 2**-SHIFT s; FACTOR 0 stands for a clock beyond what fits.
_LINK_TYPE, _SNAPLEN, _FACTOR, _DIVISOR, _SHIFT, _OFFSET_NS, _COLUMNS = 0, 1, 2, 3, 4, 5, 6


def is_pcapng(head: bytes) -> bool:
    """Return whether a file that starts with ``head`` is a pcapng capture."""
    return head[:4] == b"\x0a\x0d\x0d\x0a"


@compiled(error_model="numpy")
def to_ns(ticks: np.uint64, clock: NDArray[np.int64]) -> int:
    """Return ns since the epoch of a time in ticks of an interface's clock, or -1 where int64 overflows."""
    factor, shift, offset = clock[_FACTOR], clock[_SHIFT], clock[_OFFSET_NS]
    if factor == 0:
        return -1
    if shift >= 0:
        whole = ticks >> np.uint64(shift)
        if whole >= _MAX_NS // np.uint64(_NS):
            return -1
        part = ticks & ((np.uint64(1) << np.uint64(shift)) - np.uint64(1))
        if shift > 32:
            part >>= np.uint64(shift - 32)
            shift = np.int64(32)
        ns = whole * np.uint64(_NS) + ((part * np.uint64(_NS)) >> np.uint64(shift))
    else:
        if ticks > _MAX_NS // np.uint64(factor):
            return -1
        ns = ticks * np.uint64(factor) // np.uint64(clock[_DIVISOR])
    if offset > 0 and ns > _MAX_NS - np.uint64(offset):
        return -1
    return np.int64(ns) + offset


@compiled(error_model="numpy")
def walk_pcapng(
    raw: NDArray[np.uint8],
    at: int,
    end: int,
    big: bool,
    interfaces: NDArray[np.int64],
    interface_count: int,
    clock: NDArray[np.int64],
    frames: Frames,
    room: int,
    counts: NDArray[np.int64],
) -> tuple[int, int, int]:
    """List up to ``room`` packets of ``raw[at:end]``; return (next block, frames listed, what stopped).

    ``clock[0]`` is the last time seen, which simple packet blocks take, having none of their own.
    """
    count = 0
    while count < room:
        if end - at < 12:
            return at, count, NEEDS_MORE
        kind, length = u32(raw, at, big), u32(raw, at + 4, big)
        if kind == SECTION:
            return at, count, CONTROL
        is_packet = kind in (ENHANCED_PACKET, SIMPLE_PACKET, PACKET)
        if length < 12 or length & 3 or length > MAX_BLOCK:
            if is_packet:
                counts[ABSURD_LENGTH] += 1
            return at, count, ABSURD
        if end - at < length:
            return at, count, NEEDS_MORE
        if kind == INTERFACE and interface_count < MAX_INTERFACES:
            return at, count, CONTROL
        if not is_packet:
            at += length
            continue
        # Octets before and after the packet's bytes: block type, lengths and the fields of the block.
        head = 12 if kind == SIMPLE_PACKET else 28
        at += length
        if length < head + 4:
            counts[BAD_RECORD] += 1
            continue
        block = at - length
        interface = 0
        if kind == ENHANCED_PACKET:
            interface = u32(raw, block + 8, big)
        elif kind == PACKET:
            interface = u16(raw, block + 8, big)
        if interface >= interface_count:
            counts[UNKNOWN_INTERFACE] += 1
            continue
        original = u32(raw, block + head - 4, big)
        if kind == SIMPLE_PACKET:
            captured = min(original, length - 16)
            if interfaces[0, _SNAPLEN] > 0:
                captured = min(captured, interfaces[0, _SNAPLEN])
        else:
            captured = u32(raw, block + 20, big)
            ticks = (np.uint64(u32(raw, block + 12, big)) << np.uint64(32)) | np.uint64(
                u32(raw, block + 16, big)
            )
            clock[0] = to_ns(ticks, interfaces[interface])
        if captured > length - head - 4:
            counts[BAD_RECORD] += 1
            continue
        frames.start[count] = block + head
        frames.captured[count] = captured
        frames.original[count] = original
        frames.time_ns[count] = clock[0]
        frames.link_type[count] = interfaces[interface, _LINK_TYPE]
        count += 1
    return at, count, FULL


@compiled(error_model="numpy")
def decode_pcapng(
    raw: NDArray[np.uint8],
    at: int,
    end: int,
    big: bool,
    interfaces: NDArray[np.int64],
    interface_count: int,
    clock: NDArray[np.int64],
    frames: Frames,
    out: PacketColumns,
    row: int,
    state: DecodeState,
    spans: Spans | None,
    spots: Spots | None,
) -> tuple[int, int, int]:
    """Decode the packets of ``raw[at:end]`` into ``out`` from ``row`` on, as long as there is room.

    Returns:
        The next block's position, the row after the last one written, and what stopped: FULL, NEEDS_MORE,
        ABSURD (a block length, counted here if the block holds a packet) or CONTROL (a section or interface).
    """
    rows = len(out.time_ns)
    stopped = FULL
    while stopped == FULL and row < rows:
        at, count, stopped = walk_pcapng(
            raw, at, end, big, interfaces, interface_count, clock, frames,
            min(len(frames.start), rows - row), state.counts,
        )  # fmt: skip
        row = decode_frames(raw, frames, count, out, row, state, spans, spots)
    return at, row, stopped


class PcapngReader(Reader):
    """Reads a pcapng capture; section and interface blocks are few and parsed in Python."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self._frames = allocate_frames()
        self._clock = np.zeros(1, np.int64)
        self._interfaces = np.zeros((4, _COLUMNS), np.int64)
        self._interface_count = 0
        self._big = False
        stopped = self._start_section()
        while stopped == NEEDS_MORE and window.more():
            stopped = self._start_section()
        if stopped != CONTROL:
            raise ValueError("has no valid pcapng section header")

    def _decode(
        self, columns: PacketColumns, row: int, state: DecodeState, spans: Spans | None, spots: Spots | None
    ) -> tuple[int, int]:
        window = self.window
        window.start, row, stopped = decode_pcapng(
            window.raw, window.start, window.end, self._big, self._interfaces, self._interface_count,
            self._clock, self._frames, columns, row, state, spans, spots,
        )  # fmt: skip
        if stopped == CONTROL:
            stopped = self._control()
        return row, stopped

    def _control(self) -> int:
        """Take in the section or interface block at the window's start; return what to do next."""
        window = self.window
        if window.raw[window.start : window.start + 4].tobytes() == b"\x0a\x0d\x0d\x0a":
            return self._start_section()
        length = self._u32(4)
        self._add_interface(window.raw[window.start : window.start + length].tobytes())
        window.start += length
        return CONTROL

    def _u32(self, offset: int) -> int:
        at = self.window.start + offset
        return int.from_bytes(self.window.raw[at : at + 4].tobytes(), "big" if self._big else "little")

    def _start_section(self) -> int:
        """Take in the section header at the window's start; return CONTROL, or why it cannot be."""
        window = self.window
        unread = window.end - window.start
        if unread < 12:
            return NEEDS_MORE
        order = window.raw[window.start + 8 : window.start + 12].tobytes()
        if order not in (_BYTE_ORDER_BIG, _BYTE_ORDER_LITTLE):
            return ABSURD
        self._big = order == _BYTE_ORDER_BIG
        length = self._u32(4)
        if length < 28 or length & 3 or length > MAX_BLOCK:
            return ABSURD
        if unread < length:
            return NEEDS_MORE
        self._interface_count = 0
        window.start += length
        return CONTROL

    def _add_interface(self, block: bytes) -> None:
        if self._interface_count == len(self._interfaces):
            self._interfaces = np.concatenate((self._interfaces, np.zeros_like(self._interfaces)))
        self._interfaces[self._interface_count] = parse_interface(block, self._big)
        self._interface_count += 1

    def _count_cut(self, state: DecodeState) -> bool:
        unread = self.window.end - self.window.start
        if unread < 12 or self._u32(0) not in (PACKET, SIMPLE_PACKET, ENHANCED_PACKET):
            return False
        state.counts[CUT_RECORD] += 1
        return True


def parse_interface(block: bytes, big: bool) -> tuple[int, int, int, int, int, int]:
    """Return a row of the table of interfaces for an interface description block, whole with its lengths."""
    order = ">" if big else "<"
    if len(block) < 20:
        return -1, 0, 0, 1, -1, 0
    link_type, _, snaplen = struct.unpack_from(order + "HHI", block, 8)
    resolution, offset = 6, 0
    for code, value in _options(block[16:-4], order):
        if code == _TSRESOL and len(value) == 1:
            resolution = value[0]
        elif code == _TSOFFSET and len(value) == 8:
            offset = struct.unpack(order + "q", value)[0]
    factor, divisor, shift = _tick(resolution)
    if abs(offset) >= 2**63 // _NS:
        factor, offset = 0, 0
    return link_type, snaplen, factor, divisor, shift, offset * _NS


def _options(body: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == _END_OF_OPTIONS:
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _tick(resolution: int) -> tuple[int, int, int]:
    """Return (factor, divisor, shift) of a clock by its ``if_tsresol``."""
    exponent = resolution & 0x7F
    if resolution & 0x80:
        return (1, 1, exponent) if exponent < 64 else (0, 1, -1)
    if exponent <= 9:
        return 10 ** (9 - exponent), 1, -1
    return (1, 10 ** (exponent - 9), -1) if exponent <= 27 else (0, 1, -1)
