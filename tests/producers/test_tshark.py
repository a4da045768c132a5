"""The decoder against tshark's dissectors, packet by packet, on the capture that ships."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from producers.sources.capture import open_capture
from schemas.community_id import address_text
from schemas.flow_key import TCP, UDP

FIELDS = (
    "frame.time_epoch", "ip.src", "ip.dst", "ip.len", "ip.ttl",
    "ipv6.src", "ipv6.dst", "ipv6.plen", "ipv6.hlim",
    "tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.window_size_value", "udp.srcport", "udp.dstport",
)  # fmt: skip

Packet = tuple[int, str, str, int, int, int, int, int, int]
"""(time_ns, source, destination, octets, ttl, source port, destination port, TCP flags, TCP window)"""


@pytest.fixture(scope="module")
def tshark() -> str:
    found = shutil.which("tshark")
    if found is None:
        if os.environ.get("FLOWGAUGE_CI"):
            pytest.fail("no tshark, and FLOWGAUGE_CI allows no skip")
        pytest.skip("no tshark to compare with (Debian: apt-get install tshark)")
    return found


def dissected(tshark: str, path: Path) -> list[Packet]:
    """Return the TCP and UDP packets as tshark sees them; it takes the inner header of an ICMP error for a second."""
    command = [
        tshark,
        "-n",
        "-r",
        str(path),
        "-T",
        "fields",
        "-E",
        "occurrence=f",
        "-Y",
        "(tcp or udp) and not icmp and not icmpv6",
    ]
    for name in FIELDS:
        command += ["-e", name]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    packets = []
    for line in text.splitlines():
        f = dict(zip(FIELDS, line.split("\t"), strict=True))
        seconds, _, fraction = f["frame.time_epoch"].partition(".")
        four = bool(f["ip.src"])
        packets.append(
            (
                int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]),
                f["ip.src"] or f["ipv6.src"],
                f["ip.dst"] or f["ipv6.dst"],
                int(f["ip.len"]) if four else 40 + int(f["ipv6.plen"]),
                int(f["ip.ttl"] if four else f["ipv6.hlim"]),
                int(f["tcp.srcport"] or f["udp.srcport"]),
                int(f["tcp.dstport"] or f["udp.dstport"]),
                int(f["tcp.flags"] or "0", 16) & 0xFF,
                int(f["tcp.window_size_value"] or "0"),
            )
        )
    return packets


def decoded(path: Path) -> list[Packet]:
    """Return the TCP and UDP packets as our decoder sees them."""
    packets: list[Packet] = []
    with open_capture(str(path)) as capture:
        for block in capture.blocks():
            for i in np.flatnonzero(np.isin(block.protocol, (TCP, UDP))).tolist():
                version = int(block.ip_version[i])
                a, b = (
                    address_text(block.address_a[i].tobytes(), version),
                    address_text(block.address_b[i].tobytes(), version),
                )
                pa, pb = int(block.port_a[i]), int(block.port_b[i])
                ends = (a, b, pa, pb) if block.direction[i] == 0 else (b, a, pb, pa)
                packets.append(
                    (
                        int(block.time_ns[i]),
                        ends[0],
                        ends[1],
                        int(block.octets[i]),
                        int(block.ttl[i]),
                        ends[2],
                        ends[3],
                        int(block.tcp_flags[i]),
                        int(block.tcp_window[i]),
                    )
                )
    return packets


def test_every_packet_is_what_tshark_says(tshark: str, demo_capture: Path) -> None:
    ours, theirs = decoded(demo_capture), dissected(tshark, demo_capture)
    assert len(ours) > 60_000
    assert len(ours) == len(theirs)
    different = [(o, t) for o, t in zip(ours, theirs, strict=True) if o != t]
    assert different == []
