"""Video sessions over TLS and over QUIC: one connection each, segments fetched one after the other."""

from __future__ import annotations

import asyncio
import csv
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

from infra.lab.app import TCP, UDP, App, Endpoint
from infra.lab.host import Host
from infra.lab.https import Connection, serve_sizes
from infra.lab.ladder.player import WINDOW_S, Player
from infra.lab.ladder.rungs import LADDER, segment_octets
from infra.lab.plan import client_address

PORTS = (443, 8443)
ENDPOINTS = tuple(Endpoint(server, port, kind) for server in (1, 2) for port in PORTS for kind in (TCP, UDP))
SCENARIO = "sessions.json"
"""File in the lab's folder: ``sessions``, ``seconds`` of each, ``clients``."""
TRUTH = "truth"
COLUMNS = (
    "session", "source_address", "destination_address", "source_port", "destination_port", "protocol",
    "start_ns", "end_ns", "resolution", "bitrate_bps", "played_s", "stalled_s", "buffer_s",
)  # fmt: skip
_TICK_S = 0.05

Fetch = Callable[[int], Awaitable[int]]


async def serve(host: Host) -> None:
    """Listen at every endpoint: HTTP/1.1 over TLS on TCP, HTTP/3 on UDP."""
    from aioquic.asyncio.server import serve as listen
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from infra.lab.http3 import Server

    await serve_sizes(host, [endpoint for endpoint in ENDPOINTS if endpoint.protocol == TCP])
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, idle_timeout=30)
    configuration.load_cert_chain(*await host.certificate())
    for endpoint in ENDPOINTS:
        if endpoint.protocol == UDP:
            for address in host.both(endpoint.server):
                await listen(address, endpoint.port, configuration=configuration, create_protocol=Server)


async def visit(host: Host) -> None:
    """Play this client's share of the sessions, one after the other."""
    scenario = json.loads((host.folder / SCENARIO).read_text(encoding="utf-8"))
    for session in range(host.index, scenario["sessions"], scenario["clients"]):
        await _play(host, session, scenario["seconds"])
        host.made["video"] += 1


async def _play(host: Host, session: int, seconds: float) -> None:
    # Clients differ in their lines: each takes both transports in turn, so that a line does not tell the transport.
    protocol = (TCP, UDP)[(session + session // 6) % 2]
    endpoint = host.random.choice([endpoint for endpoint in ENDPOINTS if endpoint.protocol == protocol])
    version = host.version()
    address = host.address(endpoint.server, version)
    async with AsyncExitStack() as stack:
        opening = _over_tls if protocol == TCP else _over_quic
        fetch, port = await opening(stack, address, endpoint.port)
        player, start_ns = Player(), time.time_ns()
        await _watch(player, fetch, host.random.randrange(1000), seconds)
    ends = (client_address(host.index, version), address, port, endpoint.port, protocol)
    _write(host, session, ends, start_ns, player)


async def _over_tls(stack: AsyncExitStack, address: str, port: int) -> tuple[Fetch, int]:
    connection = await Connection.open(address, port)
    stack.push_async_callback(connection.close)
    return connection.fetch, connection.port


async def _over_quic(stack: AsyncExitStack, address: str, port: int) -> tuple[Fetch, int]:
    from aioquic.asyncio.client import connect
    from aioquic.h3.connection import H3_ALPN
    from aioquic.quic.configuration import QuicConfiguration

    from infra.lab.http3 import Client

    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        verify_mode=ssl.CERT_NONE,
        server_name="server.lab",
        idle_timeout=30,
    )
    opening = connect(address, port, configuration=configuration, create_protocol=Client)
    client: Any = cast(Client, await stack.enter_async_context(opening))

    async def fetch(size: int) -> int:
        return int(await client.fetch("server.lab", size, timeout_s=60))

    return fetch, int(client._transport.get_extra_info("sockname")[1])


async def _watch(player: Player, fetch: Fetch, title: int, seconds: float) -> None:
    """Fetch and show for some seconds; a download under way then is given up."""
    task = asyncio.create_task(_fetch_all(player, fetch, title))
    try:
        loop = asyncio.get_running_loop()
        then_s = begin_s = loop.time()
        while then_s < begin_s + seconds and not task.done():
            await asyncio.sleep(_TICK_S)
            now_s = min(loop.time(), begin_s + seconds)
            player.advance(now_s - then_s)
            then_s = now_s
        if task.done():
            await task  # it ends only by failing
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _fetch_all(player: Player, fetch: Fetch, title: int) -> None:
    loop = asyncio.get_running_loop()
    number = 0
    while True:
        while player.is_full:
            await asyncio.sleep(_TICK_S)
        rung = player.next_rung()
        octets, begin_s = segment_octets(title, number, rung), loop.time()
        await fetch(octets)
        player.arrived(rung, octets, loop.time() - begin_s)
        number += 1


def _write(
    host: Host, session: int, ends: tuple[str, str, int, int, int], start_ns: int, player: Player
) -> None:
    """Write the session's windows to a file of its own."""
    with (host.room(TRUTH) / f"{session:05}.csv").open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        for i, window in enumerate(player.windows):
            rung = None if window.rung is None else LADDER[window.rung]
            begin_ns = start_ns + int(i * WINDOW_S * 1e9)
            shown = (rung.height, int(rung.rate_bps)) if rung else ("", "")
            measured = (sum(window.played_s.values()), window.stalled_s, window.buffer_s)
            writer.writerow(
                (
                    session,
                    *ends,
                    begin_ns,
                    begin_ns + int(WINDOW_S * 1e9),
                    *shown,
                    *(f"{m:.3f}" for m in measured),
                )
            )


APP = App(
    "ladder.app", "video", ENDPOINTS, serve, visit, pause_s=1, once=True,
    programs=("openssl",), modules=("aioquic",), debian=("openssl",), pypi=("aioquic",),
)  # fmt: skip
