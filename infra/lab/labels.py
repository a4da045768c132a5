"""Truth: splits a capture into flows and labels each flow by the server endpoint it talks to.

The rule is the project's: a five-tuple's flow ends after 60 s without a packet, and a SYN starts a new one
once both sides sent FIN or one sent RST. Written plainly and apart from ``streams``, whose flows it checks.
"""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from infra.lab.pcap import Packet

IDLE_NS = 60 * 10**9
TCP, UDP = 6, 17
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10

COLUMNS = (
    "source_address", "destination_address", "source_port", "destination_port", "protocol",
    "start_ns", "end_ns", "label",
)  # fmt: skip

End = tuple[str, int]
"""Address and port."""

Truth = Mapping[tuple[str, int, int], str]
"""(address, port, protocol) of a listening server -> label."""


@dataclass
class Flow:
    """One flow as it was seen on the wire; source is who sent its first packet."""

    source: End
    destination: End
    protocol: int
    start_ns: int
    end_ns: int
    packets: int = 1
    fins: int = 0
    over: bool = False
    """Both sides sent FIN, or one sent RST."""


Judge = Callable[[Flow], str | None]
"""Says the label of a flow, None for flows without one."""


@dataclass(frozen=True)
class Segment:
    """What one frame says: its ends, its protocol and, for TCP, its flags."""

    source: End
    destination: End
    protocol: int
    flags: int


def parse(frame: bytes) -> Segment | None:
    """Return the TCP or UDP segment in an Ethernet frame, None for anything else (ARP, ICMP, fragments)."""
    if len(frame) < 34:
        return None
    kind = frame[12:14]
    if kind == b"\x08\x00":
        at, protocol = 14 + (frame[14] & 15) * 4, frame[23]
        source, destination = frame[26:30], frame[30:34]
        if struct.unpack_from("!H", frame, 20)[0] & 0x1FFF:
            return None
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        at, protocol = 54, frame[20]
        source, destination = frame[22:38], frame[38:54]
    else:
        return None
    if protocol not in (TCP, UDP) or len(frame) < at + (14 if protocol == TCP else 8):
        return None
    source_port, destination_port = struct.unpack_from("!HH", frame, at)
    return Segment(
        (str(ip_address(source)), source_port),
        (str(ip_address(destination)), destination_port),
        protocol,
        frame[at + 13] if protocol == TCP else 0,
    )


def split_flows(packets: Iterable[Packet]) -> list[Flow]:
    """Return the TCP and UDP flows of a capture, in the order of their first packets."""
    flows: list[Flow] = []
    open_flows: dict[tuple[End, End, int], Flow] = {}
    for packet in packets:
        segment = parse(packet.frame)
        if segment is None:
            continue
        first, second = sorted((segment.source, segment.destination))
        key = (first, second, segment.protocol)
        flow = open_flows.get(key)
        if flow is None or _is_new(flow, segment, packet.time_ns):
            flow = Flow(segment.source, segment.destination, segment.protocol, packet.time_ns, packet.time_ns)
            flows.append(flow)
            open_flows[key] = flow
        else:
            flow.end_ns = packet.time_ns
            flow.packets += 1
        _follow(flow, segment)
    return flows


def _is_new(flow: Flow, segment: Segment, time_ns: int) -> bool:
    syn = segment.flags & (_SYN | _ACK) == _SYN
    return time_ns - flow.end_ns >= IDLE_NS or (flow.over and syn)


def _follow(flow: Flow, segment: Segment) -> None:
    """Note FIN and RST; bit 1 of ``fins`` is the source's, bit 2 the destination's."""
    if segment.flags & _FIN:
        flow.fins |= 1 if segment.source == flow.source else 2
    flow.over = flow.over or flow.fins == 3 or bool(segment.flags & _RST)


def label_of(flow: Flow, truth: Truth) -> str | None:
    """Return the label of a flow, None where neither end is a server of the lab."""
    for address, port in (flow.destination, flow.source):
        if (label := truth.get((address, port, flow.protocol))) is not None:
            return label
    return None


def write_labels(path: Path, flows: Iterable[Flow], judge: Judge) -> dict[str, int]:
    """Write one row per labelled flow; returns the count of flows by label (``""``: flows without one)."""
    counts: dict[str, int] = {}
    with path.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for flow in flows:
            label = judge(flow)
            counts[label or ""] = counts.get(label or "", 0) + 1
            if label is not None:
                row = (flow.source[0], flow.destination[0], flow.source[1], flow.destination[1])
                writer.writerow((*row, flow.protocol, flow.start_ns, flow.end_ns, label))
    return counts
