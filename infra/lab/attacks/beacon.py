"""Beaconing: a host that reports to its controller again and again, over HTTPS and in DNS questions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

from infra.lab.app import TCP, UDP, App, Endpoint
from infra.lab.host import Host
from infra.lab.https import Connection, serve_sizes

LABEL = "beacon"
HTTPS, DNS = Endpoint(1, 4443, TCP), Endpoint(2, 53, UDP)
_DATA = b"\xc0\x0c" + struct.pack("!HHIHB", 16, 1, 5, 33, 32)
_BEACONS = 20
"""Reports of each kind in a run."""
_JITTER = 0.1


class _Names(asyncio.DatagramProtocol):
    """Answers any DNS question with one TXT record (RFC 1035)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if len(data) >= 17:
            head = data[:2] + struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0)
            self._transport.sendto(head + data[12:] + _DATA + b"x" * 32, addr)


async def serve(host: Host) -> None:
    """Stand by as the controller."""
    await serve_sizes(host, [HTTPS])
    for address in host.both(DNS.server):
        await asyncio.get_running_loop().create_datagram_endpoint(_Names, local_addr=(address, DNS.port))


async def visit(host: Host) -> None:
    """Report until the time is up, by both ways, each with a period of its own."""
    period_s = max(0.4, host.seconds / _BEACONS)
    await asyncio.gather(_every(host, period_s, _https), _every(host, period_s * 0.7, _dns))


async def _every(host: Host, period_s: float, report: Callable[[Host], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + host.seconds
    await host.think(0, period_s)
    while loop.time() < ends_s:
        host.made[LABEL] += 1
        with contextlib.suppress(OSError, TimeoutError):  # as stubborn as the real ones
            await report(host)
        await asyncio.sleep(period_s * host.random.uniform(1 - _JITTER, 1 + _JITTER))


async def _https(host: Host) -> None:
    connection = await Connection.open(host.address(HTTPS.server, 4), HTTPS.port)
    # Mostly there is nothing to do; now and then an order comes, or results go out.
    task = host.random.random()
    size = 96 if task < 0.9 else host.random.randint(2_000, 8_000)
    body = host.random.randbytes(180 if task > 0.05 else host.random.randint(2_000, 12_000))
    await connection.fetch(size, body)
    await connection.close()


async def _dns(host: Host) -> None:
    label = host.random.randbytes(host.random.randint(8, 20)).hex().encode()
    name = bytes([len(label)]) + label + b"\x02c2\x03lab\x00"
    question = struct.pack("!HHHHHH", host.random.getrandbits(16), 0x0100, 1, 0, 0, 0) + name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect((host.address(DNS.server, 4), DNS.port))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(asking, question + struct.pack("!HH", 16, 1))
        await asyncio.wait_for(loop.sock_recv(asking, 4096), 5)


APP = App(
    "attacks.beacon", LABEL, (HTTPS, DNS), serve, visit, pause_s=1, once=True,
    programs=("openssl",), debian=("openssl",),
)  # fmt: skip
