"""Nanosecond pcap files, little-endian, Ethernet: the lab's own plain reader and writer.

Independent of ``producers`` on purpose: truth that is read by the code under test proves nothing.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from schemas.errors import InputError

MAGIC_NS = 0xA1B23C4D
ETHERNET = 1


class Packet(NamedTuple):
    """One captured frame: time in ns since the epoch, bytes kept, length on the wire in octets."""

    time_ns: int
    frame: bytes
    length: int


def write_header(out: BinaryIO, snap_length: int) -> None:
    """Write the file header."""
    out.write(struct.pack("<IHHiIII", MAGIC_NS, 2, 4, 0, 0, snap_length, ETHERNET))


def write_packet(out: BinaryIO, time_ns: int, frame: bytes | bytearray, length: int) -> None:
    """Write one frame; ``length`` is its length on the wire."""
    seconds, nanoseconds = divmod(time_ns, 10**9)
    out.write(struct.pack("<IIII", seconds, nanoseconds, len(frame), length))
    out.write(frame)


def write_capture(path: Path, packets: Iterable[Packet], snap_length: int) -> None:
    """Write a gzip'd capture whose bytes depend on nothing but the packets."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as zipped:
        write_header(zipped, snap_length)  # type: ignore[arg-type]
        for packet in packets:
            write_packet(zipped, *packet)  # type: ignore[arg-type]


def read_capture(path: Path) -> Iterator[Packet]:
    """Yield the packets of a capture that the lab wrote, gzip'd or not.

    Raises:
        InputError: not a little-endian nanosecond pcap of Ethernet frames, or cut short.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as source:
        head = source.read(24)
        if len(head) < 24 or struct.unpack_from("<I", head)[0] != MAGIC_NS or head[20:24] != b"\1\0\0\0":
            raise InputError(f"{path}: not a nanosecond Ethernet pcap as the lab writes it")
        while record := source.read(16):
            if len(record) < 16:
                raise InputError(f"{path}: cut short in a packet header")
            seconds, nanoseconds, kept, length = struct.unpack("<IIII", record)
            frame = source.read(kept)
            if len(frame) < kept:
                raise InputError(f"{path}: cut short in a packet")
            yield Packet(seconds * 10**9 + nanoseconds, frame, length)
