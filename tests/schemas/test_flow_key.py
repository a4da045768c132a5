"""Flow key, flow ids, partitions and Community ID."""

from __future__ import annotations

import communityid
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.community_id import address_bytes, address_text, community_id, community_ids, is_one_way
from schemas.flow_key import (
    ICMP4_COUNTERPART,
    ICMP6_COUNTERPART,
    flow_id_of,
    format_flow_id,
    hash_five_tuple,
    hash_words,
    parse_flow_id,
    partition_of,
    probe_hash_of,
    word_at,
)

U64 = st.integers(0, (1 << 64) - 1).map(np.uint64)
ADDRESSES4 = st.ip_addresses(v=4).map(str)
ADDRESSES6 = st.ip_addresses(v=6).map(str)
PAIRS = st.one_of(st.tuples(ADDRESSES4, ADDRESSES4), st.tuples(ADDRESSES6, ADDRESSES6))
PORTS = st.integers(0, 65535)

# Baselines of corelight/community-id-spec, seed 0.
VECTORS = [
    (6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (17, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (132, "192.168.170.8", "192.168.170.56", 7, 80, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
    (1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (1, "192.168.0.1", "192.168.0.89", 0, 8, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 136, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 135, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
]


def of(protocol: int, source: str, destination: str, one: int, other: int) -> str:
    a, version = address_bytes(source)
    b, _ = address_bytes(destination)
    return community_id(a, b, one, other, protocol, version)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_published_community_ids(vector: tuple[int, str, str, int, int, str]) -> None:
    assert of(*vector[:5]) == vector[5]


@settings(max_examples=200, deadline=None)
@given(pair=PAIRS, ports=st.tuples(PORTS, PORTS), protocol=st.sampled_from([6, 17, 132]))
def test_community_ids_with_ports_are_those_of_the_package(
    pair: tuple[str, str], ports: tuple[int, int], protocol: int
) -> None:
    want = communityid.CommunityID().calc(communityid.FlowTuple(protocol, *pair, *ports))
    assert of(protocol, *pair, *ports) == want
    assert of(protocol, *pair[::-1], *ports[::-1]) == want


@settings(max_examples=200, deadline=None)
@given(pair=PAIRS, kind=st.integers(0, 255), code=st.integers(0, 15))
def test_community_ids_of_icmp_are_those_of_the_package(pair: tuple[str, str], kind: int, code: int) -> None:
    six = ":" in pair[0]
    protocol, answers = (58, ICMP6_COUNTERPART) if six else (1, ICMP4_COUNTERPART)
    make = communityid.FlowTuple.make_icmp6 if six else communityid.FlowTuple.make_icmp
    want = communityid.CommunityID().calc(make(*pair, kind, code))
    ports = (kind, answers.get(kind, code))
    assert of(protocol, *pair, *ports) == want
    assert is_one_way(protocol, kind) == (kind not in answers)
    if kind in answers:
        assert of(protocol, *pair[::-1], *ports[::-1]) == want


@settings(max_examples=100, deadline=None)
@given(pair=PAIRS, protocol=st.sampled_from([2, 47, 50, 89]))
def test_community_ids_of_other_protocols_are_those_of_the_package(
    pair: tuple[str, str], protocol: int
) -> None:
    want = communityid.CommunityID().calc(communityid.FlowTuple(protocol, *pair))
    assert of(protocol, *pair, 0, 0) == want


def test_community_ids_of_a_batch() -> None:
    chosen = [v for v in VECTORS if v[0] in (6, 17, 58)]
    raw = [(address_bytes(v[1]), address_bytes(v[2])) for v in chosen]
    columns = {
        "source_address": np.array([list(s[0]) for s, _ in raw], np.uint8),
        "destination_address": np.array([list(d[0]) for _, d in raw], np.uint8),
        "source_port": np.array([v[3] for v in chosen]),
        "destination_port": np.array([v[4] for v in chosen]),
        "protocol": np.array([v[0] for v in chosen]),
        "ip_version": np.array([s[1] for s, _ in raw]),
    }
    assert community_ids(columns) == [v[5] for v in chosen]
    assert community_ids({name: column[:0] for name, column in columns.items()}) == []


@given(address=st.one_of(ADDRESSES4, ADDRESSES6))
def test_address_texts_come_back(address: str) -> None:
    raw, version = address_bytes(address)
    assert len(raw) == 16
    assert address_text(raw, version) == address


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.256", "host", "::g", "1.2.3.4/8"])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|appear"):
        address_bytes(text)


@pytest.mark.parametrize("kinds", [ICMP4_COUNTERPART, ICMP6_COUNTERPART])
def test_icmp_types_answer_each_other(kinds: dict[int, int]) -> None:
    assert all(kinds[answer] == kind for kind, answer in kinds.items())


@settings(max_examples=100, deadline=None)
@given(flow_hash=U64, probe=U64, start_ns=st.integers(0, 1 << 62), partitions=st.integers(1, 1 << 16))
def test_a_flow_id_is_in_its_flows_partition(
    flow_hash: np.uint64, probe: np.uint64, start_ns: int, partitions: int
) -> None:
    flow_id = flow_id_of(flow_hash, probe, start_ns)
    partition = partition_of(flow_hash, partitions)
    assert 0 <= partition < partitions
    assert partition_of(np.uint64(flow_id), partitions) == partition
    assert parse_flow_id(format_flow_id(int(flow_id))) == flow_id
    assert len(format_flow_id(int(flow_id))) == 16


def test_flow_ids_differ_by_five_tuple_probe_and_start() -> None:
    probes = [probe_hash_of(f"gateway-{i}") for i in range(20)]
    hashes = [np.uint64(i * 0x9E3779B97F4A7C15 & (1 << 64) - 1) for i in range(20)]
    ids = {int(flow_id_of(h, p, 10**18 + s)) for h in hashes for p in probes for s in range(50)}
    assert len(ids) == 20 * 20 * 50


def test_probe_hashes_are_fnv_1a() -> None:
    # From the FNV authors' test vectors.
    assert int(probe_hash_of("")) == 0xCBF29CE484222325
    assert int(probe_hash_of("a")) == 0xAF63DC4C8601EC8C
    assert int(probe_hash_of("foobar")) == 0x85944171F73967E8


@pytest.mark.parametrize(
    "text",
    ["", "0", "0" * 15, "0" * 17, "g" * 16, "0x0000000000000f", "-000000000000001", " 00000000000000f"],
)
def test_other_texts_are_no_flow_ids(text: str) -> None:
    with pytest.raises(ValueError, match="16 hexadecimal digits"):
        parse_flow_id(text)


@pytest.mark.parametrize("partitions", [2, 3, 4, 7, 16, 64, 100])
def test_partitions_get_even_shares_of_flows_that_look_alike(partitions: int) -> None:
    flows = 20_000
    counts = np.zeros(partitions)
    a = np.zeros(16, np.uint8)
    b = np.zeros(16, np.uint8)
    a[:4], b[:4] = (10, 0, 0, 1), (10, 0, 0, 2)
    for port in range(flows):
        counts[partition_of(np.uint64(hash_five_tuple(a, b, 1024 + port, 443, 6, 4)), partitions)] += 1
    even = flows / partitions
    # Five standard deviations of a fair draw.
    assert np.abs(counts - even).max() < 5 * np.sqrt(even)


def test_the_hash_heeds_every_part_of_the_key() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 256, (2, 16)).astype(np.uint8)
    base = hash_five_tuple(a, b, 1, 2, 6, 6)
    hashes = {int(base)}
    for array in (a, b):
        for i in range(16):
            array[i] ^= 1
            hashes.add(int(hash_five_tuple(a, b, 1, 2, 6, 6)))
            array[i] ^= 1
    for change in ((2, 2, 6, 6), (1, 3, 6, 6), (1, 2, 17, 6), (2, 1, 6, 6)):
        hashes.add(int(hash_five_tuple(a, b, *change)))
    assert len(hashes) == 1 + 32 + 4


def test_hashes_of_words_and_bytes_agree_and_stay_what_they_are() -> None:
    """The hash is part of the contract: another one would scatter a running system's flows."""
    a = np.arange(16, dtype=np.uint8)
    b = np.arange(100, 116, dtype=np.uint8)
    words = [word_at(a, 0), word_at(a, 8), word_at(b, 0), word_at(b, 8)]
    assert [int(w) for w in words] == [
        int.from_bytes(raw[at : at + 8].tobytes(), "little") for raw in (a, b) for at in (0, 8)
    ]
    got = hash_words(*(np.uint64(w) for w in words), 40000, 443, 6, 6)
    assert int(got) == int(hash_five_tuple(a, b, 40000, 443, 6, 6)) == HASH6
    a[4:], b[4:] = 0, 0
    assert int(hash_five_tuple(a, b, 40000, 443, 6, 4)) == HASH4
    assert int(flow_id_of(np.uint64(HASH4), probe_hash_of("p"), 1_700_000_000_123_456_789)) == FLOW_ID


HASH6, HASH4 = 2076425132389940175, 12055057065780729386
FLOW_ID = 12055020746533988908
