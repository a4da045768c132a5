"""Floods at a few hundred packets a second: SYNs from ever new ports, and UDP from a few sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket

from infra.lab.app import App
from infra.lab.attacks import login
from infra.lab.attacks.raw import SynSender
from infra.lab.host import Host
from infra.lab.plan import SERVERS, client_address

SYN_LABEL, UDP_LABEL = "syn-flood", "udp-flood"
_PORTS = itertools.cycle(range(1024, 30_000))
"""Source ports below the kernel's own; each comes again only after all others."""


async def serve(host: Host) -> None:
    """Serve nothing: floods go to servers that others use, or to closed ports."""


async def visit(host: Host) -> None:
    """Flood one server for 1 to 3 s."""
    version = host.version()
    source = client_address(host.index, version)
    seconds = host.random.uniform(1, 3)
    if host.random.random() < 0.5:
        endpoint = host.random.choice(login.ENDPOINTS)
        await _syn(host, source, host.address(endpoint.server, version), endpoint.port, seconds)
    else:
        await _udp(host, source, host.address(host.random.randrange(SERVERS), version), seconds)


async def _syn(host: Host, source: str, address: str, port: int, seconds: float) -> None:
    rate = host.random.uniform(80, 250)
    with SynSender(source) as sender:
        for _ in range(int(seconds * rate)):
            sender.send(address, next(_PORTS), port, host.random.getrandbits(32))
            host.made[SYN_LABEL] += 1
            await asyncio.sleep(1 / rate)
    await asyncio.sleep(0.2)


async def _udp(host: Host, source: str, address: str, seconds: float) -> None:
    rate, size = host.random.uniform(150, 350), host.random.choice((16, 200, 512, 1200))
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            for _ in range(host.random.randint(2, 12))
        ]
        for sender in sockets:
            sender.bind((source, 0))
            sender.connect((address, host.random.randint(10_000, 60_000)))
        host.made[UDP_LABEL] += len(sockets)
        for number in range(max(len(sockets), int(seconds * rate))):
            with contextlib.suppress(ConnectionRefusedError):  # the closed port's answer to an earlier packet
                sockets[number % len(sockets)].send(bytes(size))
            await asyncio.sleep(1 / rate)


APP = App("attacks.flood", "flood", (), serve, visit, pause_s=3)
