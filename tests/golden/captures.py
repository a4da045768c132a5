"""Captures made by hand, and their records as lines of text that a person can review."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.community_id import address_text, community_ids
from schemas.features import ROW_COLUMNS, FeatureBatch
from schemas.flow_key import format_flow_id
from schemas.packets import split_names
from streams.config import StreamsSettings
from streams.offline import OfflineSummary, run_offline
from tests.producers.frames import (
    ICMP,
    ICMP6,
    IP6,
    QINQ,
    TCP,
    UDP,
    VLAN,
    Record,
    ethernet,
    extension,
    icmp,
    ip4,
    ip6,
    pcap,
    pcapng,
    tcp,
    udp,
    vlan,
)

T = 1_700_000_000_000_000_000
MS = 1_000_000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
A, B = "10.0.0.1", "10.0.0.2"
PARTITIONS = 4


def segment(
    ms: float, back: bool, flags: int, octets: int = 0, port: int = 40000, window: int = 501
) -> Record:
    """Return a TCP segment between A and B, ``octets`` of payload."""
    ports = (443, port) if back else (port, 443)
    ends = (B, A) if back else (A, B)
    body = tcp(*ports, bytes(octets), flags=flags, window=window)
    return Record(ethernet(ip4(body, TCP, *ends, ttl=57 if back else 64)), T + round(ms * MS))


def connection(start_ms: float, port: int = 40000) -> list[Record]:
    """Return a whole TCP connection, from SYN to the last ACK."""
    steps = [
        (0, False, SYN, 0, 64240),
        (12, True, SYN | ACK, 0, 65160),
        (12.2, False, ACK, 0, 502),
        (13, False, PSH | ACK, 517, 502),
        (26, True, ACK, 0, 505),
        (30.5, True, ACK, 1400, 505),
        (30.6, True, PSH | ACK, 1100, 505),
        (31, False, ACK, 0, 480),
        (900, False, PSH | ACK, 80, 480),
        (1100, True, PSH | ACK, 900, 505),
        (1101, False, FIN | ACK, 0, 480),
        (1115, True, FIN | ACK, 0, 505),
        (1115.1, False, ACK, 0, 480),
    ]
    return [segment(start_ms + ms, back, flags, n, port, window) for ms, back, flags, n, window in steps]


def tcp_lives() -> bytes:
    """TCP: a whole connection, the same ports again, a reset, a half-open one, an idle one."""
    records = [*connection(0), *connection(1500)]
    records += [segment(3000, False, SYN, port=40001), segment(3001, True, RST | ACK, port=40001)]
    records += [segment(3100, False, SYN, port=40002), segment(4100, False, SYN, port=40002)]
    records += [segment(ms, ms % 2 == 0, ACK, 50, 40003) for ms in (5000, 5001, 70_000, 131_000)]
    return pcap(records)


def mixed() -> bytes:
    """UDP, ICMP, IPv6 with an extension header, VLAN and QinQ tags, fragments, ARP, a frame cut short."""
    dns = udp(5353, 53, bytes(30)), udp(53, 5353, bytes(120))
    echo = icmp(8, payload=bytes(56)), icmp(0, payload=bytes(56))
    unreachable = icmp(3, 1, bytes(36))
    six = "2001:db8::1", "2001:db8::2"
    big = udp(6000, 6001, bytes(2000))
    frames = [
        (ethernet(ip4(dns[0], UDP, A, B)), None),
        (ethernet(ip4(dns[1], UDP, B, A)), None),
        (ethernet(ip4(echo[0], ICMP, B, A)), None),
        (ethernet(ip4(echo[1], ICMP, A, B)), None),
        (ethernet(ip4(unreachable, ICMP, B, A)), None),
        (ethernet(ip6(udp(50000, 443, bytes(1200)), UDP, *six), IP6), None),
        (ethernet(ip6(extension(udp(443, 50000, bytes(99)), UDP), 0, *six[::-1]), IP6), None),
        (ethernet(ip6(icmp(128, payload=bytes(8)), ICMP6, *six), IP6), None),
        (ethernet(ip6(icmp(129, payload=bytes(8)), ICMP6, *six[::-1]), IP6), None),
        (ethernet(vlan(ip4(tcp(40000, 25), TCP, A, B)), VLAN), None),
        (ethernet(vlan(vlan(ip4(tcp(25, 40000), TCP, B, A)), VLAN), QINQ), None),
        (ethernet(ip4(big[:1400], UDP, A, B, identification=9, fragment=0x2000)), None),
        (ethernet(ip4(big[1400:], UDP, A, B, identification=9, fragment=1400 // 8)), None),
        (ethernet(b"\0\1" + bytes(26), 0x0806), None),
        (ethernet(ip4(udp(1, 2, bytes(900)), UDP, A, B))[:60], 942),
        (ethernet(b"\x45\0"), None),
    ]
    return pcapng([Record(frame, T + i * 10 * MS, original) for i, (frame, original) in enumerate(frames)])


def disorder() -> bytes:
    """Packets out of order within the lateness, late ones, and a clock set back by an hour."""
    times = (0, 100, 50, 400, 150, 140, 2000, 1000, 2100, -3_600_000, -3_599_900)
    return pcap([segment(ms, i % 2 == 1, ACK, i) for i, ms in enumerate(times)])


CAPTURES: dict[str, Callable[[], bytes]] = {"tcp_lives": tcp_lives, "mixed": mixed, "disorder": disorder}
Line = dict[str, Any]


def lines_of(batch: FeatureBatch) -> list[Line]:
    """Return a batch's rows as objects; float32 features with the nine digits that tell them apart."""
    out = []
    for i, community in enumerate(community_ids(batch.columns)):
        line: Line = {"representation": batch.representation, "community_id": community}
        for c in ROW_COLUMNS:
            value = batch.columns[c.name][i]
            if c.width:
                line[c.name] = address_text(value.tobytes(), int(batch.columns["ip_version"][i]))
            else:
                line[c.name] = format_flow_id(value) if c.name == "flow_id" else int(value)
        if "service" in batch.columns:
            texts = split_names(batch.columns["texts"])
            for name in ("service", "server_name"):
                line[name] = texts[batch.columns[name][i]]
            line["service_found_by"] = int(batch.columns["service_found_by"][i])
        values = (float(f"{v:.9g}") for v in batch.columns["features"][i])
        line["features"] = dict(zip(batch.feature_names, values, strict=True))
        out.append(line)
    return out


def records(path: Path, settings: StreamsSettings | None = None) -> tuple[OfflineSummary, list[str]]:
    """Return a capture's summary, and its rows as JSON texts in an order of their own."""
    lines: list[Line] = []
    summary = run_offline(
        [str(path)],
        settings or StreamsSettings(),
        partitions=PARTITIONS,
        probe="golden",
        on_batch=lambda batch: lines.extend(lines_of(batch)),
    )
    lines.sort(
        key=lambda x: (x["representation"], x["start_ns"], x["flow_id"], x["interval_start_ns"], x["depth"])
    )
    return summary, [json.dumps(line) for line in lines]
