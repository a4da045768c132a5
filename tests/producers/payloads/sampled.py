"""What a sampler takes of a capture, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from producers.config import PayloadSettings
from producers.followed import FlowRules
from producers.payloads.sampler import PayloadSampler
from producers.sources.capture import open_capture


class Taken(NamedTuple):
    """A chosen packet."""

    start_ns: int
    packet_number: int
    first_direction: int
    octets: int
    transport_octets: int
    handshake: int
    source_port: int
    payload: bytes


class Sampled(NamedTuple):
    """What was chosen, in order, and the counts."""

    rows: list[Taken]
    counts: dict[str, int]


def sampled(
    path: Path | str,
    rules: FlowRules | None = None,
    *,
    partitions: int = 4,
    block: int = 8192,
    **settings: Any,
) -> Sampled:
    """Sample a capture: all packets unless the settings say otherwise."""
    chosen = PayloadSettings(**{"mode": "sample", "one_in": 1, **settings})
    sampler = PayloadSampler(chosen, partitions, rules)
    rows = []
    with open_capture(str(path)) as capture:
        for columns in capture.blocks(max_packets=block, tap=sampler):
            found = sampler.rows
            for i, row in enumerate(found.row):
                begin = found.end[i - 1] if i else 0
                ports = (
                    (columns.port_b, columns.port_a)
                    if columns.direction[row]
                    else (columns.port_a, columns.port_b)
                )
                rows.append(
                    Taken(
                        int(found.start_ns[i]),
                        int(found.packet_number[i]),
                        int(found.first_direction[i]),
                        int(found.octets[i]),
                        int(found.transport_octets[i]),
                        int(found.handshake[i]),
                        int(ports[0][row]),
                        found.data[begin : found.end[i]].tobytes(),
                    )
                )
    return Sampled(rows, sampler.told())
