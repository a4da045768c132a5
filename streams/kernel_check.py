"""The part of the battery that needs a whole kernel: rows are the same however the packets are cut and saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from schemas.columns import Array
from schemas.flow_key import hash_five_tuple
from schemas.packets import FLOW_COLUMNS, PACKET_COLUMNS
from streams.config import Kind, RepresentationSettings, StreamsSettings
from streams.plan import Plan
from streams.probe_flows import ProbeFlows

KINDS: tuple[Kind, ...] = ("early", "window", "flow")
SIZES = (1, 7, 2048)
PACKETS = 600
FLOWS = 5


def check_in_kernel(names: tuple[str, ...], feature_files: tuple[str, ...] = ()) -> list[str]:
    """Return what is wrong with features inside a kernel with all kinds of representations of them."""
    name = ", ".join(names)
    representations = tuple(
        RepresentationSettings(name=kind, kind=kind, features=names, every_s=1.0) for kind in KINDS
    )
    plan = Plan(
        StreamsSettings(feature_files=feature_files, representations=representations, idle_timeout_s=5.0)
    )
    columns = made_packets(PACKETS)
    whole = _rows(plan, columns, SIZES[-1], save=False)
    problems = []
    for size in SIZES:
        if _rows(plan, columns, size, save=False) != whole:
            problems.append(f"{name}: batches of {size} packets give other rows")
        if _rows(plan, columns, size, save=True) != whole:
            problems.append(f"{name}: saving all state after {size} packets gives other rows")
    return problems


def _rows(plan: Plan, columns: dict[str, Array], size: int, save: bool) -> list[tuple[Any, ...]]:
    """Return the rows of packets cut into batches of a size, in an order of their own."""
    flows, rows = ProbeFlows(plan, "check", max_flows=64), []
    for start in range(0, PACKETS, size):
        rows += _plain(flows.apply(cut(columns, start, start + size)))
        if save:
            taken_up = ProbeFlows(plan, "check", max_flows=64)
            taken_up.load(flows.save(), flows.watermark_ns)
            flows = taken_up
    return sorted(rows + _plain(flows.end_all()))


def _plain(emitted: Iterator[tuple[int, dict[str, Array]]]) -> list[tuple[Any, ...]]:
    return [
        (number, *(rows[name][i].tobytes() for name in sorted(rows)))
        for number, rows in emitted
        for i in range(len(rows["flow_id"]))
    ]


def cut(columns: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Return a batch of the packets from ``start`` up to ``stop``; the flow directory stays whole."""
    by_packet = [c.name for c in PACKET_COLUMNS] + ["tcp_sequence", "tcp_acknowledgment"]
    flows = {c.name: columns[c.name] for c in FLOW_COLUMNS}
    packets = {name: columns[name][start:stop] for name in by_packet}
    return {**flows, **packets, **_heads_of(columns, start, stop)}


def _heads_of(columns: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    places, lengths = columns["head_packet"].astype(int), columns["head_length"]
    chosen = (places >= start) & (places < stop)
    ends = np.cumsum(lengths, dtype=np.int64)
    first = int(ends[np.flatnonzero(chosen)[0]] - lengths[chosen][0]) if chosen.any() else 0
    octets = int(lengths[chosen].sum(dtype=np.int64))
    return {
        "head_packet": (places[chosen] - start).astype(np.uint16),
        "head_length": lengths[chosen],
        "head": columns["head"][first : first + octets],
    }


def made_packets(count: int, flows: int = FLOWS, seed: int = 1) -> dict[str, Array]:
    """Return packet columns, the extra ones too, of a few flows over TCP and UDP with ties, gaps and disorder."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Array] = _directory(flows)
    flow = rng.integers(flows, size=count)
    gaps = rng.choice([0, 0, 1, 10**6, 5 * 10**7, 3 * 10**8, -(10**6)], count)
    tcp = columns["protocol"][flow] == 6
    payload = rng.choice([0, 1, 100, 400, 1460], count)
    header = np.where(tcp, 40, 28)
    sequence = np.zeros((flows, 2), np.int64) + 2**32 - 50_000
    numbers = np.zeros((count, 2), np.uint32)
    direction = rng.integers(2, size=count)
    for i in range(count):
        own, other = sequence[flow[i], direction[i]], sequence[flow[i], 1 - direction[i]]
        numbers[i] = own % 2**32, other % 2**32
        sequence[flow[i], direction[i]] += int(rng.choice([1, 1, 1, 0, 2])) * payload[i]
    head_length = np.minimum(header + payload, 64).astype(np.uint16)
    columns |= {
        "flow_index": flow.astype(np.uint16),
        "time_ns": 1_700_000_000 * 10**9 + np.cumsum(gaps).astype(np.int64),
        "octets": (header + payload).astype(np.uint32),
        "header_octets": header.astype(np.uint16),
        "tcp_window": np.where(tcp, rng.integers(65_536, size=count), 0).astype(np.uint16),
        "tcp_flags": np.where(tcp, rng.choice([16, 16, 24, 2, 18, 17], count), 0).astype(np.uint8),
        "ttl": rng.integers(1, 256, size=count).astype(np.uint8),
        "direction": direction.astype(np.uint8),
        "tcp_sequence": np.where(tcp, numbers[:, 0], 0).astype(np.uint32),
        "tcp_acknowledgment": np.where(tcp, numbers[:, 1], 0).astype(np.uint32),
        "head_packet": np.arange(count).astype(np.uint16),
        "head_length": head_length,
        "head": rng.integers(256, size=int(head_length.sum(dtype=np.int64))).astype(np.uint8),
    }
    return columns


def _directory(flows: int) -> dict[str, Array]:
    addresses = np.zeros((2, flows, 16), np.uint8)
    addresses[0, :, :4], addresses[1, :, :4] = (10, 0, 0, 1), (10, 0, 0, 2)
    port = 40_000 + np.arange(flows)
    protocol = np.where(np.arange(flows) % 3 == 2, 17, 6)
    keys: Sequence[tuple[int, int]] = list(zip(port.tolist(), protocol.tolist(), strict=True))
    hashes = [
        hash_five_tuple(addresses[0, i], addresses[1, i], 443, p, q, 4) for i, (p, q) in enumerate(keys)
    ]
    return {
        "flow_hash": np.array(hashes, np.uint64),
        "address_a": addresses[0],
        "address_b": addresses[1],
        "port_a": np.full(flows, 443, np.uint16),
        "port_b": port.astype(np.uint16),
        "protocol": protocol.astype(np.uint8),
        "ip_version": np.full(flows, 4, np.uint8),
    }
