"""Servers that ask for a password, FTP and a web form, and people who know theirs: what brute force is tried on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from infra.lab.app import TCP, App, Endpoint
from infra.lab.host import Host

FTP, WEB = (21, 2121), (8081, 8090)
ENDPOINTS = (Endpoint(0, 21, TCP), Endpoint(2, 2121, TCP), Endpoint(1, 8081, TCP), Endpoint(3, 8090, TCP))
USERS = {f"user{i}": f"right{i}" for i in range(8)}
"""Name to password; the passwords that attackers try are others."""
_WAIT_S = 20.0

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serve(host: Host) -> None:
    """Listen at every endpoint."""
    for endpoint in ENDPOINTS:
        answer = _ftp if endpoint.port in FTP else _web
        for address in host.both(endpoint.server):
            _KEEP.append(await asyncio.start_server(answer, address, endpoint.port))


_KEEP: list[asyncio.Server] = []


async def _ftp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The control connection of FTP (RFC 959), without transfers; three wrong passwords end it."""
    name, failures, inside = "", 0, False
    with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
        writer.write(b"220 lab ready\r\n")
        while failures < 3 and (line := await asyncio.wait_for(reader.readline(), _WAIT_S)):
            command, _, value = line.decode("latin-1").strip().partition(" ")
            if command == "USER":
                name, answer = value, "331 password please"
            elif command == "PASS":
                inside = USERS.get(name) == value
                failures += not inside
                await asyncio.sleep(0.02)
                answer = "230 welcome" if inside else "530 no"
            elif command == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                answer = "211-lab\r\n" + " feature\r\n" * 12 + "211 end" if inside else "530 log in first"
            writer.write(answer.encode() + b"\r\n")
            await writer.drain()
    writer.close()


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A login form over HTTP/1.1, one request a connection or several."""
    with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, ValueError):
        while head := await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _WAIT_S):
            fields = [line.partition(":") for line in head.decode("latin-1").splitlines()[1:]]
            length = next((int(value) for name, _, value in fields if name.lower() == "content-length"), 0)
            form = parse_qs((await reader.readexactly(length)).decode("latin-1"))
            name, password = (form.get(key, [""])[0] for key in ("name", "password"))
            await asyncio.sleep(0.02)
            right = not length or USERS.get(name) == password
            body = b"<p>" + b"text " * 300 if right else b"<p>wrong"
            writer.write(
                b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (b"200 OK" if right else b"401 No", len(body))
            )
            writer.write(body)
            await writer.drain()
    writer.close()


async def visit(host: Host) -> None:
    """Log in with the right password, after a typing error now and then, and look around for a while."""
    endpoint = host.random.choice(ENDPOINTS)
    name = f"user{host.index}"
    tries = [USERS[name]]
    if host.random.random() < 0.15:
        tries.insert(0, "rigth")
    address = host.address(endpoint.server, host.version())
    async with connected(address, endpoint.port) as (reader, writer):
        if endpoint.port in FTP:
            await reader.readline()
            for password in tries:
                await say(reader, writer, f"USER {name}\r\n")
                await host.think(0.2, 0.8)
                await say(reader, writer, f"PASS {password}\r\n")
            for _ in range(host.random.randint(1, 5)):
                await host.think(0.2, 1.5)
                writer.write(b"FEAT\r\n")
                await reader.readuntil(b"211 end\r\n")
            await say(reader, writer, "QUIT\r\n")
            return
        for password in tries:
            await submit(reader, writer, name, password)
            await host.think(0.3, 1.5)
        for _ in range(host.random.randint(0, 4)):
            await submit(reader, writer, "", "")
            await host.think(0.3, 2)


@contextlib.asynccontextmanager
async def connected(address: str, port: int) -> AsyncIterator[Streams]:
    """Yield the streams of a connection, closed at the end."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 10)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 5)


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: str) -> bytes:
    """Send an FTP command and return its one-line answer."""
    writer.write(line.encode())
    return await asyncio.wait_for(reader.readline(), _WAIT_S)


async def submit(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, password: str
) -> bytes:
    """Send the form, or with an empty name ask for a page; return the first line of the answer."""
    form = f"name={name}&password={password}" if name else ""
    writer.write(f"POST /login HTTP/1.1\r\nhost: lab\r\ncontent-length: {len(form)}\r\n\r\n{form}".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _WAIT_S)
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    await reader.readexactly(length)
    return head.partition(b"\r\n")[0]


APP = App("attacks.login", "benign", ENDPOINTS, serve, visit, pause_s=2)
