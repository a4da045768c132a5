"""Ring blocks as the kernel writes them, written here independently of the walk that reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns, allocate
from producers.decoder.kernel import allocate_frames, writable
from producers.decoder.link import ETHERNET
from producers.decoder.state import DecodeState, allocate_state
from producers.probe.ring.kernel import PLACES, RING_COUNTS, RingShape, decode_ring, give_back
from schemas.packets import NO_EXTRA, Extra

BLOCK_OCTETS = 4096
HEADER = 48 + 20  # tpacket3_hdr and sockaddr_ll
MAC = 82  # where the kernel puts an Ethernet frame: its network header comes at 96


@dataclass
class Frame:
    octets: bytes
    time_ns: int = 1_700_000_000_123_456_789
    length: int | None = None
    """On the wire; None: nothing was cut off."""
    packet_type: int = 0
    vlan: int | None = None
    protocol: int = 0x0800


def block(frames: list[Frame], sequence: int = 0, size: int = BLOCK_OCTETS, status: int = 1) -> bytes:
    """Return a block that the kernel has handed over."""
    body, at = bytearray(size), 48
    for number, frame in enumerate(frames):
        step = (MAC + len(frame.octets) + 15) & ~15
        last = number == len(frames) - 1
        seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
        length = len(frame.octets) if frame.length is None else frame.length
        flags = 1 | (1 << 4 if frame.vlan is not None else 0)
        header = struct.pack(
            "<IIIIIIHHIIHH8x", 0 if last else step, seconds, nanoseconds, len(frame.octets), length, flags,
            MAC, MAC + 14, 0, frame.vlan or 0, 0x8100 if frame.vlan is not None else 0, 0,
        )  # fmt: skip
        address = struct.pack("<H2sIHBB8x", 17, struct.pack(">H", frame.protocol), 1, 1, frame.packet_type, 6)
        body[at : at + HEADER] = header + address
        body[at + MAC : at + MAC + len(frame.octets)] = frame.octets
        at += step
    struct.pack_into("<IIIIIIQ", body, 0, 1, 48, status, len(frames), 48, at, sequence)
    return bytes(body)


@dataclass
class Ring:
    """A ring in memory, and a walk over it."""

    blocks: list[bytes]
    shape: RingShape | None = None
    place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(PLACES, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(RING_COUNTS, np.int64))
    state: DecodeState = field(default_factory=allocate_state)

    def __post_init__(self) -> None:
        memory = np.frombuffer(b"".join(self.blocks), np.uint8).copy()
        self.words = memory.view(np.uint32)
        self.raw = memory.view()
        self.raw.flags.writeable = False
        if self.shape is None:
            self.shape = RingShape(len(self.blocks[0]), len(self.blocks), ETHERNET, False, 1522, False)

    def read(
        self, rows: int = 100, release: bool = True, extra: Extra = NO_EXTRA, macs: Sequence[int] = ()
    ) -> PacketColumns:
        assert self.shape is not None
        columns = allocate(rows, extra)
        count = decode_ring(
            self.raw, self.shape, self.place, self.counts, allocate_frames(), writable(columns), 0, self.state, None,
            np.array(macs, np.int64),
        )  # fmt: skip
        if release:
            give_back(self.words, self.shape, self.place)
        return columns.head(count)

    def status(self) -> list[int]:
        """Return the status of each block."""
        return [
            int(self.words[(number * len(self.blocks[0]) + 8) // 4]) for number in range(len(self.blocks))
        ]
