"""The decoder's five-tuples against the communityid package and its published vectors."""

from __future__ import annotations

from pathlib import Path

import communityid
import numpy as np
import pytest

from schemas.community_id import community_id
from schemas.flow_key import hash_five_tuple
from tests.producers.frames import (
    ICMP,
    ICMP6,
    IP4,
    IP6,
    SCTP,
    TCP,
    UDP,
    Record,
    decode_file,
    ethernet,
    icmp,
    ip4,
    ip6,
    pcap,
    sctp,
    tcp,
    udp,
)

Tuple = tuple[int, str, str, int, int]


def frame(protocol: int, source: str, destination: str, one: int, two: int) -> bytes:
    """Return a frame of this five-tuple; for ICMP the last two are type and code."""
    body = {TCP: tcp, UDP: udp, SCTP: sctp}.get(protocol)
    payload = body(one, two) if body else icmp(one, two)
    if ":" in source:
        return ethernet(ip6(payload, protocol, source, destination), IP6)
    return ethernet(ip4(payload, protocol, source, destination), IP4)


def reference(protocol: int, source: str, destination: str, one: int, two: int) -> str:
    make = {
        TCP: communityid.FlowTuple.make_tcp,
        UDP: communityid.FlowTuple.make_udp,
        SCTP: communityid.FlowTuple.make_sctp,
        ICMP: communityid.FlowTuple.make_icmp,
        ICMP6: communityid.FlowTuple.make_icmp6,
    }[protocol]
    return str(communityid.CommunityID().calc(make(source, destination, one, two)))


def random_tuple(rng: np.random.Generator) -> Tuple:
    protocol = int(rng.choice([TCP, UDP, SCTP, ICMP, ICMP6]))
    # Few distinct values, so that equal endpoints and shared prefixes occur.
    if protocol == ICMP6 or (protocol != ICMP and rng.random() < 0.4):
        parts = ["{:x}:{:x}::{:x}:{:x}".format(*rng.choice([1, 2, 0xFF00, 0xABCD], 4)) for _ in range(2)]
    else:
        parts = ["{}.{}.{}.{}".format(*rng.choice([1, 2, 10, 200, 255], 4)) for _ in range(2)]
    if protocol in (ICMP, ICMP6):
        return protocol, parts[0], parts[1], int(rng.integers(256)), int(rng.integers(4))
    return protocol, parts[0], parts[1], int(rng.choice([0, 1, 80, 443, 65535])), int(rng.integers(65536))


def test_both_directions_meet_and_community_ids_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    tuples = [random_tuple(rng) for _ in range(4000)]
    path = tmp_path / "tuples.pcap"
    forth = [Record(frame(*five)) for five in tuples]
    back = [Record(frame(p, d, s, two, one)) for p, s, d, one, two in tuples if p not in (ICMP, ICMP6)]
    path.write_bytes(pcap(forth + back))
    rows = decode_file(path).rows
    ids = {}
    for five, row in zip(tuples, rows, strict=False):
        key = (
            row["address_a"],
            row["address_b"],
            row["port_a"],
            row["port_b"],
            row["protocol"],
            row["ip_version"],
        )
        assert community_id(*key) == reference(*five), five
        a, b = (np.frombuffer(address, np.uint8) for address in key[:2])
        assert row["flow_hash"] == hash_five_tuple(a, b, *key[2:])
        ids[key] = row["flow_hash"]
    assert len(set(ids.values())) == len(ids)
    returning = iter(rows[len(tuples) :])
    for five, row in zip(tuples, rows, strict=False):
        if five[0] in (ICMP, ICMP6):
            continue
        answer = next(returning)
        assert answer["flow_hash"] == row["flow_hash"]
        same_end = five[1] == five[2] and five[3] == five[4]
        assert answer["direction"] == (0 if same_end else 1 - row["direction"])


VECTORS = [
    # Baseline of corelight/community-id-spec, seed 0.
    ((TCP, "128.232.110.120", "66.35.250.204", 34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    ((UDP, "192.168.1.52", "8.8.8.8", 54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    ((SCTP, "192.168.170.8", "192.168.170.56", 7, 80), "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
    ((ICMP, "192.168.0.89", "192.168.0.1", 8, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    ((ICMP, "192.168.0.1", "192.168.0.89", 0, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (
        (ICMP6, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0),
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
    ),
    (
        (ICMP6, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0),
        "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
    ),
]


@pytest.mark.parametrize(("five", "expected"), VECTORS)
def test_published_vectors(tmp_path: Path, five: Tuple, expected: str) -> None:
    path = tmp_path / "vector.pcap"
    path.write_bytes(pcap([Record(frame(*five))]))
    (row,) = decode_file(path).rows
    key = (
        row["address_a"],
        row["address_b"],
        row["port_a"],
        row["port_b"],
        row["protocol"],
        row["ip_version"],
    )
    assert community_id(*key) == expected
