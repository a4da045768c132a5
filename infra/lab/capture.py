"""Capture of one interface through AF_PACKET into a nanosecond pcap; a process of its own in a namespace.

The lab carries some hundreds of packets a second, so a plain loop is enough here; the project's probe is not
used on purpose: the lab's captures test it.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import json
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from infra.lab.pcap import write_header, write_packet

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_SIOCETHTOOL = 0x8946
# ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO: with them on, captures hold frames that never were on a wire.
_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)


def wire_frames(interface: str) -> None:
    """Switch segmentation and checksum offloads off: every frame is as long as on a wire, and complete."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for command in _OFFLOADS:
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(handle.fileno(), _SIOCETHTOOL, request)


def capture(interface: str, out: BinaryIO, snap_length: int, stop: threading.Event) -> dict[str, int]:
    """Record frames until ``stop`` is set; returns the counts of packets written and packets lost."""
    write_header(out, snap_length)
    packets = 0
    buffer = bytearray(65536)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as handle:
        handle.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        handle.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        handle.bind((interface, _ETH_P_ALL))
        handle.settimeout(0.2)
        print("ready", flush=True)
        while not stop.is_set():
            try:
                length, control, _, _ = handle.recvmsg_into([buffer], 128)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack("qq", control[0][2][:16])
            write_packet(out, seconds * 10**9 + nanoseconds, buffer[: min(length, snap_length)], length)
            packets += 1
        _, lost = struct.unpack("II", handle.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    return {"packets": packets, "lost": lost}


def main() -> None:
    """Capture ``interface`` into ``file`` until SIGTERM; prints ``ready``, then the counts as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("file", type=Path)
    parser.add_argument("snap_length", type=int)
    arguments = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the lab decides when the capture ends
    with arguments.file.open("wb") as out:
        counts = capture(arguments.interface, out, arguments.snap_length, stop)
    json.dump(counts, sys.stdout)


if __name__ == "__main__":
    main()
