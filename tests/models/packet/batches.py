"""Payload batches made for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.payloads import PayloadBatch

TIME_NS = 1_700_000_000_000_000_000


def payload_batch(
    *packets: tuple[int, int, bytes],
    sequence: int = 0,
    partition: int = 3,
    sent_time_ns: int = TIME_NS,
    start_ns: int = TIME_NS - 1000,
    **more: Any,
) -> PayloadBatch:
    """Return a batch of (flow id, packet number, octets as sent) packets."""
    flows = list(dict.fromkeys(flow for flow, _, _ in packets))
    n, m = len(flows), len(packets)
    columns: dict[str, Any] = {
        "flow_id": np.array(flows, "<u8"),
        "start_ns": np.full(n, start_ns, "<i8"),
        "address_a": np.array([[10, 0, 0, 1, *[0] * 12]] * n, "u1").reshape(n, 16),
        "address_b": np.array([[10, 0, 0, 2, *[0] * 12]] * n, "u1").reshape(n, 16),
        "port_a": np.full(n, 443, "<u2"),
        "port_b": np.full(n, 50000, "<u2"),
        "protocol": np.full(n, 6, "u1"),
        "ip_version": np.full(n, 4, "u1"),
        "first_direction": np.ones(n, "u1"),
        "flow_index": np.array([flows.index(flow) for flow, _, _ in packets], "<u2"),
        "time_ns": start_ns + 1000 + np.arange(m, dtype="<i8"),
        "packet_number": np.array([number for _, number, _ in packets], "<u4"),
        "octets": np.full(m, 60, "<u4"),
        "transport_octets": np.full(m, 20, "<u2"),
        "length": np.array([len(sent) for _, _, sent in packets], "<u2"),
        "direction": np.zeros(m, "u1"),
        "handshake": np.zeros(m, "u1"),
        "payload": np.frombuffer(b"".join(sent for _, _, sent in packets), "u1"),
    }
    return PayloadBatch("gate", TIME_NS - 10**9, partition, 8, sequence, sent_time_ns, columns, **more)
