"""The lab's address plan: a few servers and a few clients on one switch, each with IPv4 and IPv6.

The IPv4 addresses are from the range reserved for benchmarks (RFC 2544), the IPv6 ones are unique local.
"""

from __future__ import annotations

SERVERS = 4
CLIENTS = 6
FIRST_SERVER = 10
"""Last octet of the first server's addresses."""


def server_address(index: int, version: int) -> str:
    """Return the address (``version`` 4 or 6) of server ``index``, 0 to SERVERS - 1."""
    return f"198.18.0.{FIRST_SERVER + index}" if version == 4 else f"fd00:18::{FIRST_SERVER + index:x}"


def client_address(index: int, version: int) -> str:
    """Return the address (``version`` 4 or 6) of client ``index``, 0 to CLIENTS - 1."""
    return f"198.18.1.{20 + index}" if version == 4 else f"fd00:18::1:{20 + index:x}"
