"""File sharing: BitTorrent over TCP and uTP, libtorrent on both sides; no tracker or DHT, seeds are known."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from infra.lab.app import TCP, UDP, App, Endpoint
from infra.lab.host import Host
from infra.lab.plan import client_address

_PLACES = ((0, 6881), (1, 51413), (2, 8999))
ENDPOINTS = tuple(Endpoint(server, port, protocol) for server, port in _PLACES for protocol in (TCP, UDP))
SIZES = (50_000, 100_000, 160_000)
PIECE = 16_384


def _session(addresses: list[str], port: int, *, utp: bool, tcp: bool) -> Any:
    """Return a session that listens at some addresses and tells nobody that it exists."""
    import libtorrent

    interfaces = ",".join(f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses)
    return libtorrent.session(
        {
            "listen_interfaces": interfaces, "outgoing_interfaces": ",".join(addresses),
            "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
            "enable_outgoing_utp": utp, "enable_outgoing_tcp": tcp,
            "allow_multiple_connections_per_ip": True,
            "alert_mask": 0, "user_agent": "lab", "peer_fingerprint": "-LB0001-",
        }
    )  # fmt: skip


def _add(session: Any, torrent: Path, folder: Path, seed: bool) -> Any:
    import libtorrent

    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(str(torrent))
    parameters.save_path = str(folder)
    flags = libtorrent.torrent_flags
    parameters.flags = flags.disable_pex | flags.disable_dht | flags.disable_lsd
    if seed:
        parameters.flags |= flags.seed_mode | flags.upload_mode
    return session.add_torrent(parameters)


async def serve(host: Host) -> None:
    """Make three torrents and one seed per endpoint."""
    import libtorrent

    room = host.room("bittorrent")
    for size in SIZES:
        (room / f"file{size}").write_bytes(host.random.randbytes(size))
        files = libtorrent.file_storage()
        libtorrent.add_files(files, str(room / f"file{size}"))
        torrent = libtorrent.create_torrent(files, PIECE)
        libtorrent.set_piece_hashes(torrent, str(room))
        (room / f"{size}.torrent").write_bytes(libtorrent.bencode(torrent.generate()))
    for server, port in _PLACES:
        session = _session(list(host.both(server)), port, utp=False, tcp=False)  # seeds call nobody
        for size in SIZES:
            _add(session, room / f"{size}.torrent", room, seed=True)
        _KEEP.append(session)


_KEEP: list[Any] = []
"""Sessions end when they are collected; the seeds' live as long as the process."""


async def visit(host: Host) -> None:
    """Fetch one file from one to three seeds, at full speed or slowed down, whole or in part."""
    room = host.room("bittorrent")
    version = host.version()
    size = host.random.choice((*SIZES, SIZES[0], SIZES[0]))
    folder = room / f"client{host.index}-{host.random.getrandbits(32):08x}"
    folder.mkdir()
    port = host.random.randint(30_000, 39_000)
    utp = host.random.random() < 0.4
    session = _session([client_address(host.index, version)], port, utp=utp, tcp=not utp)
    try:
        handle = _add(session, room / f"{size}.torrent", folder, seed=False)
        handle.set_download_limit(host.random.choice((0, 60_000, 25_000)))
        for server, seed_port in host.random.sample(_PLACES, host.random.randint(1, 3)):
            handle.connect_peer((host.address(server, version), seed_port))
        for _ in range(host.random.randint(15, 50)):
            if handle.status().is_seeding:
                break
            await asyncio.sleep(0.1)
    finally:
        session.pause()
        await asyncio.sleep(0.3)
        del session
        shutil.rmtree(folder, ignore_errors=True)


APP = App(
    "bittorrent",
    "file-sharing",
    ENDPOINTS,
    serve,
    visit,
    pause_s=6,
    modules=("libtorrent",),
    pypi=("libtorrent",),
)
