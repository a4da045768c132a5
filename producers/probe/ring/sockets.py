"""The AF_PACKET socket with its ring: what the kernel is asked for, and what it says."""

from __future__ import annotations

import errno
import mmap
import socket
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from producers.probe.ring.filters import Filter, take_none
from producers.probe.ring.kernel import BLOCK, PLACES, SEQUENCE, STATUS, USER
from schemas.errors import FlowgaugeError, SettingsError

_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _TIMESTAMP, _FANOUT = 1, 5, 6, 10, 17, 18
_IGNORE_OUTGOING = 23
_V3 = 2
_ALL_PROTOCOLS = 0x0003
_PROMISCUOUS = 1
_RAW_HARDWARE = 1 << 6
_FANOUT_KINDS = {"hash": 0x8000, "cpu": 2}
"""By flow, fragments put together first so that they go where their flow goes (PACKET_FANOUT_FLAG_DEFRAG); by CPU."""
_FRAME_OCTETS = 2048
_LEAST_BLOCKS = 2


class CaptureError(FlowgaugeError):
    """An interface cannot be captured from; the message names it and what to do."""

    exit_code = 3


class RingSize(NamedTuple):
    """A ring's size, in octets and blocks of so many octets."""

    octets: int
    block_octets: int
    timeout_ms: int
    """After how long a block that is not full is handed over."""


class Statistics(NamedTuple):
    """What the kernel counted since it was last asked."""

    packets: int
    """Packets that passed the filter, those dropped among them."""
    dropped: int
    """Packets for which the ring had no room."""
    freezes: int
    """How often the ring was full."""


class PacketSocket:
    """An AF_PACKET socket that receives nothing until it is bound; its ring is mapped once it is made.

    Raises:
        CaptureError: no right to capture, or no ring.
    """

    def __init__(self) -> None:
        if not hasattr(socket, "AF_PACKET"):
            raise CaptureError("live capture needs Linux")
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            raise CaptureError(
                "no right to capture packets: run as root, or give the process CAP_NET_RAW (docs/how-to/probe.md)"
            ) from None
        self.map: mmap.mmap | None = None
        self.block_octets = self.blocks = 0

    def fileno(self) -> int:
        """Return the file descriptor, which is readable when a block is ready."""
        return self.socket.fileno()

    def make_ring(self, size: RingSize) -> int:
        """Allocate and map the ring; return its octets, which are fewer than asked where the kernel has less.

        Half as much is asked for each time, down to two blocks.
        """
        self.socket.setsockopt(_PACKET, _VERSION, _V3)
        blocks = max(_LEAST_BLOCKS, size.octets // size.block_octets)
        while True:
            request = struct.pack(
                "7I",
                size.block_octets,
                blocks,
                _FRAME_OCTETS,
                blocks * (size.block_octets // _FRAME_OCTETS),
                size.timeout_ms,
                0,
                0,
            )
            try:
                self.socket.setsockopt(_PACKET, _RX_RING, request)
                self.map = mmap.mmap(self.fileno(), blocks * size.block_octets, mmap.MAP_SHARED)
                break
            except OSError as error:
                if error.errno not in (errno.ENOMEM, errno.EAGAIN) or blocks <= _LEAST_BLOCKS:
                    raise CaptureError(
                        f"the kernel refuses a ring of {blocks} blocks of {size.block_octets >> 10} KiB: "
                        f"{error.strerror} (probe.ring_mbytes, probe.block_kbytes)"
                    ) from error
                blocks = max(_LEAST_BLOCKS, blocks // 2)
        self.block_octets, self.blocks = size.block_octets, blocks
        return blocks * size.block_octets

    def adopt_ring(self, size: RingSize) -> bool:
        """Map the ring that another process made on this very socket; return False where there is none.

        Only a ring of the size asked for is found.
        """
        try:
            self.socket.setsockopt(_PACKET, _VERSION, _V3)
            return False
        except OSError:  # EBUSY: not possible any more, once there is a ring
            pass
        self.block_octets, self.blocks = (
            size.block_octets,
            max(_LEAST_BLOCKS, size.octets // size.block_octets),
        )
        self.map = mmap.mmap(self.fileno(), self.blocks * self.block_octets, mmap.MAP_SHARED)
        return True

    def index(self) -> int:
        """Return the index of the interface that the socket is bound to; 0 or less where there is none any more."""
        packed = self.socket.getsockname()
        try:
            return socket.if_nametoindex(packed[0]) if packed[0] else 0
        except OSError:
            return 0

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """Return the ring as bytes to read and as words to write: views that keep it mapped."""
        if self.map is None:
            raise ValueError("the socket has no ring")
        raw = np.frombuffer(self.map, np.uint8)
        raw.flags.writeable = False
        return raw, np.frombuffer(self.map, np.uint32)

    def first_place(self) -> NDArray[np.int64]:
        """Return where a walk over the ring begins: 0, or where the process before us was."""
        raw, _ = self.arrays()
        blocks = raw.reshape(self.blocks, self.block_octets)
        status = blocks[:, STATUS : STATUS + 4].copy().view(np.uint32)[:, 0]
        order = blocks[:, SEQUENCE : SEQUENCE + 8].copy().view(np.uint64)[:, 0]
        waiting = np.flatnonzero(status & USER)
        place = np.zeros(PLACES, np.int64)
        # The oldest block that waits; without one, the block that is being filled.
        place[BLOCK] = waiting[np.argmin(order[waiting])] if len(waiting) else np.argmax(order)
        return place

    def bind(self, interface: str, filter_: Filter) -> None:
        """Receive from an interface what passes the filter; raises CaptureError where it is gone."""
        try:
            # What comes between the binding and the filter would have passed no filter.
            filter_.attach(self.socket)
            self.socket.bind((interface, _ALL_PROTOCOLS))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise CaptureError(f"interface {interface}: there is none of this name") from None
            raise CaptureError(f"interface {interface}: cannot be captured from: {error.strerror}") from error

    def set_filter(self, filter_: Filter) -> None:
        """Have another filter decide from the next packet on."""
        filter_.attach(self.socket)

    def pause(self) -> None:
        """Take no packets until ``set_filter``."""
        take_none().attach(self.socket)

    def be_promiscuous(self, index: int) -> None:
        """Have the interface take in frames for other stations, as long as the socket is open."""
        self.socket.setsockopt(_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PROMISCUOUS, 0, b""))

    def ignore_outgoing(self) -> bool:
        """Leave out what this machine sends; return False where the kernel is too old to know how (before 4.20)."""
        try:
            self.socket.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
        except OSError:
            return False
        return True

    def use_hardware_time(self) -> None:
        """Take the interface's times where a packet has one."""
        self.socket.setsockopt(_PACKET, _TIMESTAMP, _RAW_HARDWARE)

    def join(self, group: int, kind: str) -> None:
        """Share the packets of the interface with the other sockets of a group; raises SettingsError."""
        try:
            self.socket.setsockopt(
                _PACKET, _FANOUT, struct.pack("I", group & 0xFFFF | _FANOUT_KINDS[kind] << 16)
            )
        except OSError as error:
            raise SettingsError(f"probe.fanout = {kind!r}: the kernel refuses: {error.strerror}") from error

    def error(self) -> int:
        """Return the error that waits on the socket, as ENETDOWN when its interface went down, and clear it."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def statistics(self) -> Statistics:
        """Return what the kernel counted since the last call."""
        packed = self.socket.getsockopt(_PACKET, _STATISTICS, 12)
        return Statistics(*struct.unpack("3I", packed))

    def close(self) -> None:
        """Close the socket; the ring stays mapped as long as arrays over it are in use."""
        self.map = None
        self.socket.close()
