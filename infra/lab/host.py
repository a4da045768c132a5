"""What an application sees of the machine it runs on: addresses, a folder, programs to start, dice.

A host is one side of the wire, inside its network namespace. The folder is shared by all hosts, as files do
not know network namespaces: servers leave there what clients need (keys, lists of pages).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path

from infra.lab.plan import SERVERS, server_address

_LISTENS = {6: ("tcp", "0A"), 17: ("udp", "07")}


class LabError(Exception):
    """An application of the lab failed; the message says which program and how, in one line."""


class Host:
    """One side of the wire. ``index`` is the client's number, or -1 on the servers' side."""

    def __init__(self, folder: Path, seed: int, index: int, seconds: float = 0.0) -> None:
        self.folder = folder
        self.index = index
        self.seconds = seconds
        """How long a client begins visits."""
        self.made: Counter[str] = Counter()
        """What visits count about themselves, such as the connections of a scan."""
        self.random = random.Random(f"{seed}/{index}")  # noqa: S311 - behaviour, not secrets
        self._daemons: list[tuple[asyncio.subprocess.Process, Path]] = []
        self._tls = asyncio.Lock()

    def version(self) -> int:
        """Draw an IP version: mostly 4, in three of ten visits 6."""
        return 6 if self.random.random() < 0.3 else 4

    def address(self, server: int, version: int) -> str:
        """Return the address of a server."""
        return server_address(server, version)

    def both(self, server: int) -> tuple[str, str]:
        """Return the IPv4 and the IPv6 address of a server."""
        return server_address(server, 4), server_address(server, 6)

    def url(self, scheme: str, server: int, port: int) -> str:
        """Return the base URL of a server over an IP version drawn here."""
        version = self.version()
        address = server_address(server, version)
        return f"{scheme}://[{address}]:{port}" if version == 6 else f"{scheme}://{address}:{port}"

    def room(self, name: str) -> Path:
        """Return a folder of the application's own, which every user of the machine may enter."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    async def think(self, low_s: float, high_s: float) -> None:
        """Wait for a time drawn between two bounds in seconds."""
        await asyncio.sleep(self.random.uniform(low_s, high_s))

    async def certificate(self) -> tuple[Path, Path]:
        """Return the files of a self-signed certificate and its key, made on first use."""
        room = self.room("tls")
        certificate, key = room / "certificate.pem", room / "key.pem"
        async with self._tls:
            if not certificate.exists():
                names = [f"IP:{a}" for i in range(SERVERS) for a in self.both(i)]
                await self.run(
                    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-days", "3650", "-subj", "/CN=server.lab",
                    "-addext", "subjectAltName=" + ",".join(["DNS:server.lab", *names]),
                    "-keyout", str(key), "-out", str(certificate),
                )  # fmt: skip
        return certificate, key

    async def run(
        self,
        *argv: str,
        stdin: bytes | None = None,
        typing: list[tuple[float, bytes]] | None = None,
        timeout_s: float = 40,
        user: str | None = None,
        env: dict[str, str] | None = None,
    ) -> bytes:
        """Run a program to its end and return its standard output.

        ``typing`` feeds standard input piece by piece, each after a pause in seconds.

        Raises:
            LabError: the program failed or took longer than ``timeout_s``.
        """
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin is not None or typing else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            user=user,
            env={**os.environ, **(env or {})},
            cwd=self.folder,
        )
        try:
            async with asyncio.timeout(timeout_s):
                feeder = asyncio.create_task(_type(process, typing or []))
                out, err = await _talk(process, stdin, feeder, bool(typing))
        except TimeoutError as error:
            raise LabError(f"{Path(argv[0]).name}: still running after {timeout_s:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            lines = (err.strip() or out.strip()).decode(errors="replace").splitlines() or ["no message"]
            raise LabError(f"{Path(argv[0]).name}: exit {process.returncode}: {lines[-1]}")
        return out

    async def start(self, *argv: str, user: str | None = None) -> None:
        """Start a server that stays in the foreground; it is stopped with the host."""
        log = self.room("logs") / f"{len(self._daemons):02}-{Path(argv[0]).name}.log"
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, user=user, cwd=self.folder
            )
        self._daemons.append((process, log))

    async def listening(self, protocol: int, port: int, timeout_s: float = 20) -> None:
        """Wait until something in this namespace listens on a port; no packet is sent to find out.

        Raises:
            LabError: nothing listens there after ``timeout_s``.
        """
        for _ in range(int(timeout_s * 10)):
            if _is_open(protocol, port):
                return
            self._check_daemons()
            await asyncio.sleep(0.1)
        raise LabError(f"nothing listens on {_LISTENS[protocol][0]} port {port} after {timeout_s:g} s")

    def _check_daemons(self) -> None:
        """Raise LabError for a server that ended by itself, once, with the last line that it wrote."""
        for process, log in self._daemons:
            if process.returncode is not None:
                self._daemons.remove((process, log))
                lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
                raise LabError(f"{log.stem.split('-', 1)[1]}: ended with {process.returncode}: {lines[-1]}")

    async def stop(self) -> None:
        """Stop the servers that this host started: politely, then for good."""
        for process, _ in self._daemons:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process, _ in self._daemons:
            try:
                await asyncio.wait_for(process.wait(), 3)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()


async def _type(process: asyncio.subprocess.Process, typing: list[tuple[float, bytes]]) -> None:
    if not typing or process.stdin is None:
        return
    with contextlib.suppress(ConnectionError):
        for pause_s, piece in typing:
            await asyncio.sleep(pause_s)
            process.stdin.write(piece)
            await process.stdin.drain()
        process.stdin.close()


async def _talk(
    process: asyncio.subprocess.Process, stdin: bytes | None, feeder: asyncio.Task[None], typed: bool
) -> tuple[bytes, bytes]:
    """Collect both outputs while input is fed; ``communicate`` alone would close standard input at once."""
    if not typed:
        return await process.communicate(stdin)
    if process.stdout is None or process.stderr is None:
        raise LabError("a program was started without pipes")
    try:
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        await process.wait()
    finally:
        feeder.cancel()
    return out, err


def _is_open(protocol: int, port: int) -> bool:
    """Say whether the kernel lists a listening socket on a port (``/proc/net``, own namespace)."""
    name, state = _LISTENS[protocol]
    for table in (f"/proc/net/{name}", f"/proc/net/{name}6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == state:
                return True
    return False
