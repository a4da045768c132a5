"""Log lines over UDP (RFC 3164): clients are Python's SysLogHandler, servers take and forget. One way."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers

from infra.lab.app import UDP, App, Endpoint
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 514, UDP), Endpoint(2, 5514, UDP), Endpoint(3, 6514, UDP))

_LINES = (
    "session opened for user {0} by (uid={1})",
    "link {1} is up at 1000 Mbit/s, full duplex",
    "accepted connection {0} from 198.18.1.{1}",
    "disk {0}: {1} sectors read in {2} ms, queue depth {3}, no errors reported by the controller",
    "job {0} ended after {2} s with status {3}",
)


async def serve(host: Host) -> None:
    """Listen at every endpoint; what arrives is dropped."""
    loop = asyncio.get_running_loop()
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(address, endpoint.port))


async def visit(host: Host) -> None:
    """Log one to ten lines through one socket, in bursts or spread over seconds."""
    endpoint = host.random.choice(ENDPOINTS)
    handler = logging.handlers.SysLogHandler((host.address(endpoint.server, host.version()), endpoint.port))
    try:
        pause_s = host.random.choice((0.005, 0.3, 1.5))
        for _ in range(host.random.randint(1, 10)):
            text = host.random.choice(_LINES).format(*(host.random.randrange(10**4) for _ in range(4)))
            level = host.random.choice((logging.INFO, logging.WARNING, logging.ERROR))
            handler.handle(logging.LogRecord(f"unit{host.index}", level, "", 0, text, None, None))
            await host.think(0.5 * pause_s, 1.5 * pause_s)
    finally:
        handler.close()


APP = App("syslog", "syslog", ENDPOINTS, serve, visit, pause_s=2)
