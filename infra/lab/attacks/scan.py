"""Port scans: connections opened and closed, half-open ones (SYN), and UDP probes; ports in random order."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from infra.lab.app import App
from infra.lab.attacks.raw import SynSender
from infra.lab.host import Host
from infra.lab.plan import SERVERS, client_address

LABEL = "scan"
_COMMON = (21, 22, 25, 53, 80, 110, 143, 443, 445, 993, 1883, 3306, 3389, 5432, 6379, 8080, 8081, 8443, 2222)


async def serve(host: Host) -> None:
    """Serve nothing: a scan meets what is there, and what is not."""


async def visit(host: Host) -> None:
    """Scan 20 to 60 ports of one server, 50 to 250 a second, in one way."""
    version = host.version()
    address = host.address(host.random.randrange(SERVERS), version)
    others = host.random.sample(range(1, 10_000), host.random.randint(15, 45))
    ports = list({*host.random.sample(_COMMON, 10), *others})
    host.random.shuffle(ports)
    pause_s = 1 / host.random.uniform(50, 250)
    way = host.random.choice((_connect, _half_open, _udp))
    await way(host, client_address(host.index, version), address, ports, pause_s)


async def _connect(host: Host, source: str, address: str, ports: list[int], pause_s: float) -> None:
    async def one(port: int) -> None:
        host.made[LABEL] += 1
        with contextlib.suppress(OSError, TimeoutError):
            _, writer = await asyncio.wait_for(
                asyncio.open_connection(address, port, local_addr=(source, 0)), 0.9
            )
            writer.close()

    tasks = []
    for port in ports:
        tasks.append(asyncio.create_task(one(port)))
        await asyncio.sleep(pause_s)
    await asyncio.gather(*tasks)


async def _half_open(host: Host, source: str, address: str, ports: list[int], pause_s: float) -> None:
    source_port = host.random.randint(1024, 30_000)
    with SynSender(source) as sender:
        for port in ports:
            sender.send(address, source_port, port, host.random.getrandbits(32))
            host.made[LABEL] += 1
            await asyncio.sleep(pause_s)
    await asyncio.sleep(0.2)


async def _udp(host: Host, source: str, address: str, ports: list[int], pause_s: float) -> None:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((source, 0))
        for port in ports:
            probe.sendto(host.random.randbytes(host.random.choice((0, 4, 24))), (address, port))
            host.made[LABEL] += 1
            await asyncio.sleep(pause_s)


APP = App("attacks.scan", LABEL, (), serve, visit, pause_s=2.5)
