"""The flow key: canonical five-tuple, its hash, the partition it belongs to, and flow ids.

Probe and agents share these functions, so that both directions of a flow, and the same flow seen at two
gateways, land in the same partition.

The canonical order of the two endpoints is Community ID's (version 1): the smaller address first, then the
smaller port. ICMP has no ports; its type and code stand in for them as Community ID maps them.
"""

from __future__ import annotations

from string import hexdigits

import numpy as np
from numpy.typing import NDArray

from schemas.compiled import compiled

ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132

_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xBF58476D1CE4E5B9)
_M3 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_TOP16 = np.uint64(0xFFFF << 48)
_LOW48 = np.uint64((1 << 48) - 1)
_S8, _S16, _S32, _S48 = np.uint64(8), np.uint64(16), np.uint64(32), np.uint64(48)

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


@compiled(inline="always")
def mix(x: np.uint64) -> np.uint64:
    """Return a well-spread 64-bit value for ``x`` (the finaliser of SplitMix64)."""
    x = (x ^ (x >> _S30)) * _M2
    x = (x ^ (x >> _S27)) * _M3
    return x ^ (x >> _S31)


@compiled(inline="always")
def hash_words(
    a0: np.uint64,
    a1: np.uint64,
    b0: np.uint64,
    b1: np.uint64,
    port_a: int,
    port_b: int,
    protocol: int,
    version: int,
) -> np.uint64:
    """Return the flow hash of a canonical five-tuple.

    ``a0, a1`` and ``b0, b1`` are the two 8-byte halves of each 16-byte address, read as little-endian words
    (an IPv4 address fills the first four bytes, the rest is zero).
    """
    ports = (
        (np.uint64(port_a) << _S48)
        | (np.uint64(port_b) << _S32)
        | (np.uint64(protocol) << _S8)
        | np.uint64(version)
    )
    h = mix(ports + _M1)
    h = mix(h ^ (a0 * _M1))
    h = mix(h ^ (b0 * _M2))
    if version == 6:
        h = mix(h ^ (a1 * _M3))
        h = mix(h ^ (b1 + _M1))
    return h


@compiled
def hash_five_tuple(
    address_a: NDArray[np.uint8],
    address_b: NDArray[np.uint8],
    port_a: int,
    port_b: int,
    protocol: int,
    version: int,
) -> np.uint64:
    """Return the flow hash of a canonical five-tuple whose addresses are 16-byte arrays."""
    return hash_words(
        word_at(address_a, 0), word_at(address_a, 8), word_at(address_b, 0), word_at(address_b, 8),
        port_a, port_b, protocol, version,
    )  # fmt: skip


@compiled(inline="always")
def word_at(raw: NDArray[np.uint8], at: int) -> np.uint64:
    """Return eight bytes as a little-endian word."""
    word = np.uint64(0)
    for i in range(8):
        word |= np.uint64(raw[at + i]) << np.uint64(8 * i)
    return word


@compiled(inline="always")
def partition_of(flow: np.uint64, partitions: int) -> int:
    """Return the partition of a flow, from its flow hash or equally from its flow id.

    Only the top 16 bits count, and a flow id keeps those of its five-tuple's hash, so a label or a prediction
    that knows nothing but the flow id finds the partition of the flow.
    """
    return int(((np.uint64(flow) >> _S48) * np.uint64(partitions)) >> _S16)


def partitions_of(flows: NDArray[np.uint64], partitions: int) -> list[int]:
    """Return the partition of each flow, as ``partition_of`` does."""
    if partitions == 1:
        return [0] * len(flows)
    found: list[int] = (((flows >> _S48) * np.uint64(partitions)) >> _S16).tolist()
    return found


@compiled(inline="always")
def flow_id_of(flow_hash: np.uint64, probe_hash: np.uint64, start_ns: int) -> np.uint64:
    """Return the flow id: 16 bits that give the partition, 48 bits of (five-tuple, probe, start)."""
    h = mix(np.uint64(flow_hash) ^ (np.uint64(probe_hash) * _M1))
    h = mix(h ^ (np.uint64(start_ns) * _M2))
    return (np.uint64(flow_hash) & _TOP16) | (h & _LOW48)


def probe_hash_of(probe: str) -> np.uint64:
    """Return the 64-bit hash of a probe's name (FNV-1a over its UTF-8 bytes)."""
    h = FNV_OFFSET
    for byte in probe.encode():
        h = ((h ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return np.uint64(h)


# Community ID's table of ICMP types that answer each other (type -> type of the counterpart); every other
# type is one-way: its code stands where the second port would, and the endpoints are not reordered.
ICMP4_COUNTERPART: dict[int, int] = {
    8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 9: 10, 10: 9,
}  # fmt: skip
ICMP6_COUNTERPART: dict[int, int] = {
    128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130,
    139: 140, 140: 139, 144: 145, 145: 144,
}  # fmt: skip


def _counterparts(table: dict[int, int]) -> NDArray[np.int16]:
    out = np.full(256, -1, dtype=np.int16)
    for kind, answer in table.items():
        out[kind] = answer
    return out


ICMP4_COUNTERPARTS = _counterparts(ICMP4_COUNTERPART)
ICMP6_COUNTERPARTS = _counterparts(ICMP6_COUNTERPART)


def format_flow_id(flow_id: int) -> str:
    """Return a flow id as the 16 hexadecimal digits that plain records carry."""
    return f"{int(flow_id):016x}"


def parse_flow_id(text: str) -> int:
    """Return the flow id that 16 hexadecimal digits stand for; raises ValueError for anything else."""
    if len(text) != 16 or not set(text) <= set(hexdigits):  # int() would take signs and spaces too
        raise ValueError(f"a flow id has 16 hexadecimal digits, not {text!r}")
    return int(text, 16)
