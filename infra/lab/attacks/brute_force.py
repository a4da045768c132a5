"""Brute force on the lab's own logins: FTP, the web form and, where its server stands, SSH; no guess is right."""

from __future__ import annotations

import asyncio
import contextlib

from infra.lab.app import App, find_program
from infra.lab.apps import ssh
from infra.lab.attacks import login
from infra.lab.host import Host, LabError

LABEL = "brute-force"


async def serve(host: Host) -> None:
    """Serve nothing: the servers are those of ``login`` and ``ssh``."""


async def visit(host: Host) -> None:
    """Guess for a while on one server, one to three connections at a time."""
    kinds = [_ftp, _web]
    if find_program("ssh") and (host.folder / "ssh" / "sshd_config").exists():
        kinds.append(_ssh)
    kind = host.random.choice(kinds)
    await asyncio.gather(*(kind(host) for _ in range(host.random.randint(1, 3))))


def _guess(host: Host) -> str:
    return f"{host.random.choice(('admin', 'pass', 'qwerty', 'letmein'))}{host.random.randrange(1000)}"


def _user(host: Host) -> str:
    return host.random.choice(("root", "admin", *login.USERS))


async def _ftp(host: Host) -> None:
    endpoint = host.random.choice([e for e in login.ENDPOINTS if e.port in login.FTP])
    address = host.address(endpoint.server, host.version())
    for _ in range(host.random.randint(2, 6)):
        host.made[LABEL] += 1
        async with login.connected(address, endpoint.port) as (reader, writer):
            await reader.readline()
            for _ in range(3):
                await login.say(reader, writer, f"USER {_user(host)}\r\n")
                await login.say(reader, writer, f"PASS {_guess(host)}\r\n")


async def _web(host: Host) -> None:
    endpoint = host.random.choice([e for e in login.ENDPOINTS if e.port in login.WEB])
    address = host.address(endpoint.server, host.version())
    each = host.random.choice((1, 1, 5))
    for _ in range(host.random.randint(3, 10)):
        host.made[LABEL] += 1
        async with login.connected(address, endpoint.port) as (reader, writer):
            for _ in range(each):
                await login.submit(reader, writer, _user(host), _guess(host))
                await host.think(0.0, 0.05)


async def _ssh(host: Host) -> None:
    endpoint = host.random.choice(ssh.ENDPOINTS)
    address = host.address(endpoint.server, host.version())
    room = host.room("brute-force")
    answer = room / f"password{host.index}"
    answer.write_text(f"#!/bin/sh\necho {_guess(host)}\n")
    answer.chmod(0o755)
    for _ in range(host.random.randint(1, 3)):
        host.made[LABEL] += 1
        with contextlib.suppress(LabError):  # refused, as it should be
            await host.run(
                "ssh", "-F", "none", "-p", str(endpoint.port), "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", "PreferredAuthentications=password",
                "-o", "NumberOfPasswordPrompts=2", "-o", "ConnectTimeout=10", f"{_user(host)}@{address}", "true",
                env={"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}, timeout_s=20,
            )  # fmt: skip


APP = App("attacks.brute_force", LABEL, (), serve, visit, pause_s=2)
