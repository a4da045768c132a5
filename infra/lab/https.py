"""Downloads over TLS with HTTP/1.1: a server that answers ``/SIZE`` with so many octets, and a client's connection."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Sequence

from infra.lab.app import Endpoint
from infra.lab.host import Host

_PIECE = 64 * 1024


async def serve_sizes(host: Host, endpoints: Sequence[Endpoint]) -> None:
    """Listen at every endpoint, over IPv4 and IPv6; the octets are random."""
    certificate, key = await host.certificate()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    for endpoint in endpoints:
        for address in host.both(endpoint.server):
            _KEEP.append(await asyncio.start_server(_answer, address, endpoint.port, ssl=context))


_KEEP: list[asyncio.Server] = []
"""Servers end when they are collected; these live as long as the process."""


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await _head(reader):
            first, *fields = head.decode("latin-1").splitlines()
            length = next((f.split(":")[1] for f in fields if f.lower().startswith("content-length:")), "0")
            await reader.readexactly(int(length))
            size = int(first.split(" ")[1].lstrip("/"))
            writer.write(b"HTTP/1.1 200 OK\r\nserver: lab\r\ncontent-length: %d\r\n\r\n" % size)
            for begin in range(0, size, _PIECE):
                writer.write(os.urandom(min(_PIECE, size - begin)))
                await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, ValueError, IndexError):
        pass  # a client that goes away, or speaks otherwise, ends its connection
    finally:
        writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


class Connection:
    """A client's connection that stays open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.port = int(writer.get_extra_info("sockname")[1])
        """The client's own port."""

    @classmethod
    async def open(cls, address: str, port: int) -> Connection:
        """Connect; raises OSError where nothing answers."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opening = asyncio.open_connection(address, port, ssl=context, server_hostname="server.lab")
        return cls(*await asyncio.wait_for(opening, 15))

    async def fetch(self, size: int, body: bytes = b"") -> int:
        """Request ``size`` octets; returns how many came."""
        kind = "POST" if body else "GET"
        head = f"{kind} /{size} HTTP/1.1\r\nhost: server.lab\r\nuser-agent: lab\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        await self._reader.readuntil(b"\r\n\r\n")
        left = size
        while left:
            piece = await self._reader.read(min(left, _PIECE))
            if not piece:
                raise ConnectionError("the server went away")
            left -= len(piece)
        return size

    async def close(self) -> None:
        """End the connection in order."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), 5)
        except (OSError, TimeoutError, ssl.SSLError):
            return
