"""What the kernel refuses is told, and where it has less memory a smaller ring is taken."""

from __future__ import annotations

import errno
import mmap
import socket
import struct
from typing import Any

import pytest

from producers.probe.ring.sockets import CaptureError, PacketSocket, RingSize

RX_RING = 5


class Stingy:
    """A socket whose kernel has memory for so many blocks."""

    def __init__(self, most_blocks: int, refusal: int = errno.ENOMEM) -> None:
        self.most_blocks, self.refusal = most_blocks, refusal
        self.asked: list[int] = []

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        if name == RX_RING:
            self.asked.append(struct.unpack_from("II", value)[1])
            if self.asked[-1] > self.most_blocks:
                raise OSError(self.refusal, "no")

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


def packet_socket(monkeypatch: pytest.MonkeyPatch, kernel: Stingy) -> PacketSocket:
    monkeypatch.setattr(socket, "socket", lambda *_: kernel)
    monkeypatch.setattr(mmap, "mmap", lambda _file, octets, _flags: bytearray(octets))
    return PacketSocket()


def test_half_a_ring_is_taken_where_there_is_no_memory_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Stingy(5)
    packets = packet_socket(monkeypatch, kernel)
    assert packets.make_ring(RingSize(1 << 20, 64 << 10, 5)) == 4 * (64 << 10)
    assert kernel.asked == [16, 8, 4] and packets.blocks == 4


@pytest.mark.parametrize(("most_blocks", "refusal"), [(1, errno.ENOMEM), (0, errno.EINVAL)])
def test_a_ring_that_is_refused_is_told_with_its_size(
    monkeypatch: pytest.MonkeyPatch, most_blocks: int, refusal: int
) -> None:
    packets = packet_socket(monkeypatch, Stingy(most_blocks, refusal))
    with pytest.raises(
        CaptureError, match=r"the kernel refuses a ring of \d+ blocks of 64 KiB: no \(probe.ring_mbytes"
    ):
        packets.make_ring(RingSize(1 << 20, 64 << 10, 5))


def test_without_the_right_it_says_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> socket.socket:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(CaptureError, match=r"no right to capture packets: .* CAP_NET_RAW"):
        PacketSocket()
