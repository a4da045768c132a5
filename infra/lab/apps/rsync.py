"""Backups: rsync's own daemon, trees copied up and down and again after small changes."""

from __future__ import annotations

import shutil

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

ENDPOINTS = (Endpoint(0, 873, TCP), Endpoint(2, 8873, TCP))
FILES = 25


async def serve(host: Host) -> None:
    """Lay out a tree and start one daemon per endpoint."""
    room = host.room("rsync")
    for folder in ("tree", "incoming"):
        (room / folder).mkdir()
    for number in range(FILES):
        size = min(30_000, int(host.random.lognormvariate(7, 1.2)))
        (room / "tree" / f"file{number:02}.txt").write_text(
            f"{host.random.getrandbits(64):016x}\n" * (size // 17 + 1)
        )
    configuration = room / "rsyncd.conf"
    configuration.write_text(
        f"use chroot = no\nuid = root\ngid = root\nreverse lookup = no\nmax connections = 0\n"
        f"[tree]\npath = {room}/tree\n[incoming]\npath = {room}/incoming\nread only = no\n"
    )
    for endpoint in ENDPOINTS:
        for address in host.both(endpoint.server):
            await host.start(
                program("rsync"), "--daemon", "--no-detach", f"--config={configuration}",
                f"--address={address}", f"--port={endpoint.port}",
            )  # fmt: skip


async def visit(host: Host) -> None:
    """Pull a few files, push a few, or list; sometimes compressed or slowed down."""
    room = host.room("rsync")
    endpoint = host.random.choice(ENDPOINTS)
    version = host.version()
    address = host.address(endpoint.server, version)
    place = f"rsync://[{address}]:{endpoint.port}" if version == 6 else f"rsync://{address}:{endpoint.port}"
    options = ["-a", "-q", *host.random.choice(([], ["-z"], ["--bwlimit=60"], ["--checksum"]))]
    own = room / f"client{host.index}"
    own.mkdir(exist_ok=True)
    pattern = (
        f"--include=file{host.random.randrange(3)}[{host.random.choice(('0-1', '2-5', '6', '7-9'))}].txt"
    )
    kind = host.random.random()
    if kind < 0.15:
        await host.run(program("rsync"), f"{place}/tree/")
    elif kind < 0.6:
        if host.random.random() < 0.6:
            shutil.rmtree(own)
        await host.run(program("rsync"), *options, pattern, "--exclude=*", f"{place}/tree/", f"{own}/")
    else:
        (own / "note.txt").write_text(f"{host.random.getrandbits(64):016x}\n" * host.random.randint(1, 900))
        await host.run(program("rsync"), *options, f"{own}/note.txt", f"{place}/incoming/{host.index}.txt")


APP = App("rsync", "backup", ENDPOINTS, serve, visit, pause_s=4, programs=("rsync",), debian=("rsync",))
