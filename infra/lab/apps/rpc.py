"""Remote procedure calls: XML-RPC over HTTP, server and client of Python's standard library."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
import time
import xmlrpc.client
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from infra.lab.app import TCP, App, Endpoint
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 8080, TCP), Endpoint(1, 9443, TCP), Endpoint(2, 9000, TCP))


class _Handler(SimpleXMLRPCRequestHandler):
    """HTTP/1.1, so that a connection carries many calls."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True


class _Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
    address_family = socket.AF_INET

    def __init__(self, address: str, port: int) -> None:
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, port), _Handler, logRequests=False, allow_none=True)


def _status(name: Any) -> Any:
    return {"name": name, "load": time.monotonic() % 4, "up": True}


def _rows(count: Any) -> Any:
    return [{"id": i, "name": f"item-{i}", "price": i * 1.5} for i in range(count)]


def _total(values: Any) -> Any:
    return sum(values)


async def serve(host: Host) -> None:
    """Serve three procedures at every endpoint, one thread each."""
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            server = _Server(address, endpoint.port)
            server.register_function(_status, "status")
            server.register_function(_rows, "rows")
            server.register_function(_total, "total")
            threading.Thread(target=server.serve_forever, daemon=True).start()


async def visit(host: Host) -> None:
    """Call one to eight procedures on one connection."""
    endpoint = host.random.choice(ENDPOINTS)
    url = host.url("http", endpoint.server, endpoint.port)
    with xmlrpc.client.ServerProxy(url, allow_none=True) as proxy:
        for _ in range(host.random.randint(1, 8)):
            kind = host.random.random()
            if kind < 0.5:
                await asyncio.to_thread(proxy.status, f"unit-{host.random.randrange(50)}")
            elif kind < 0.8:
                await asyncio.to_thread(proxy.rows, host.random.randint(1, 40))
            else:
                await asyncio.to_thread(proxy.total, [host.random.random() for _ in range(30)])
            await host.think(0.02, 0.5)


APP = App("rpc", "rpc", ENDPOINTS, serve, visit, pause_s=2.5)
