"""Web pages over QUIC (HTTP/3): aioquic on both sides."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from infra.lab.app import UDP, App, Endpoint
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 443, UDP), Endpoint(1, 8443, UDP), Endpoint(3, 443, UDP), Endpoint(2, 4433, UDP))


async def serve(host: Host) -> None:
    """Listen at every endpoint."""
    from aioquic.asyncio.server import serve as listen
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from infra.lab.http3 import Server

    certificate, key = await host.certificate()
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, idle_timeout=20)
    configuration.load_cert_chain(certificate, key)
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            await listen(address, endpoint.port, configuration=configuration, create_protocol=Server)


async def visit(host: Host) -> None:
    """Fetch one to six pages on one connection, together or one by one; sometimes send a body."""
    from aioquic.asyncio.client import connect
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from infra.lab.http3 import Client

    endpoint = host.random.choice(ENDPOINTS)
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        verify_mode=ssl.CERT_NONE,
        server_name="server.lab",
        idle_timeout=20,
    )
    address = host.address(endpoint.server, host.version())
    async with connect(
        address, endpoint.port, configuration=configuration, create_protocol=Client
    ) as protocol:
        client = cast(Client, protocol)
        sizes = [
            min(50_000, 200 + int(host.random.lognormvariate(8, 1.2)))
            for _ in range(host.random.randint(1, 6))
        ]
        if host.random.random() < 0.5:
            await asyncio.gather(*(client.fetch("server.lab", size) for size in sizes))
            return
        for size in sizes:
            body = (
                host.random.randbytes(host.random.randint(50, 4000)) if host.random.random() < 0.15 else b""
            )
            await client.fetch("server.lab", size, body)
            await host.think(0.02, 0.6)


APP = App(
    "quic", "quic", ENDPOINTS, serve, visit, pause_s=3.2,
    programs=("openssl",), modules=("aioquic",), debian=("openssl",), pypi=("aioquic",),
)  # fmt: skip
