"""Made-up packets in columns, for tests without a capture."""

from __future__ import annotations

import numpy as np

from producers.columns import PacketColumns, allocate
from schemas.flow_key import TCP, UDP, hash_five_tuple

START_NS = 1_700_000_000_000_000_000


def packets(
    rows: int, flows: int = 20, seed: int = 0, start_ns: int = START_NS, step_ns: int = 1_000_000
) -> PacketColumns:
    """Return ``rows`` packets of at most ``flows`` flows, ``step_ns`` apart, the rest at random."""
    random = np.random.default_rng(seed)
    columns = allocate(rows)
    of_flow = random.integers(0, flows, rows)
    wide = random.integers(0, 256, (2, flows, 16), dtype=np.uint8)
    version = random.choice(np.array([4, 6], dtype=np.uint8), flows)
    wide[:, version == 4, 4:] = 0
    ports = random.integers(0, 65536, (2, flows)).astype(np.uint16)
    protocol = random.choice(np.array([TCP, UDP], dtype=np.uint8), flows)
    hashes = np.array(
        [
            hash_five_tuple(wide[0, i], wide[1, i], ports[0, i], ports[1, i], protocol[i], version[i])
            for i in range(flows)
        ],
        dtype=np.uint64,
    )
    columns.time_ns[:] = start_ns + np.arange(rows) * step_ns
    columns.octets[:] = random.integers(40, 1500, rows)
    columns.header_octets[:] = random.integers(28, 60, rows)
    columns.tcp_window[:] = random.integers(0, 65536, rows)
    columns.tcp_flags[:] = random.integers(0, 256, rows)
    columns.ttl[:] = random.integers(1, 256, rows)
    columns.direction[:] = random.integers(0, 2, rows)
    columns.flow_hash[:] = hashes[of_flow]
    columns.address_a[:], columns.address_b[:] = wide[0, of_flow], wide[1, of_flow]
    columns.port_a[:], columns.port_b[:] = ports[0, of_flow], ports[1, of_flow]
    columns.protocol[:], columns.ip_version[:] = protocol[of_flow], version[of_flow]
    return columns
