"""Video in segments (HLS) over TLS: ffmpeg encodes a ladder, nginx serves it, players fetch at playback pace.

Two players: ffmpeg on one rung, and one of our own that changes rungs as it goes.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
from pathlib import Path

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host
from infra.lab.nginx import serve_folder

PLAIN = (8080,)
ENDPOINTS = (Endpoint(2, 443, TCP), Endpoint(3, 8443, TCP), Endpoint(3, 8080, TCP))
RUNGS = {"low": ("160x90", 60), "middle": ("256x144", 110), "high": ("320x180", 200)}
"""Rung -> frame size and rate in kbit/s: small, so that the capture stays small."""
SEGMENTS = 12
SEGMENT_S = 1.5


async def serve(host: Host) -> None:
    """Encode the ladder and serve it."""
    room = host.room("video")
    await asyncio.gather(*(_encode(host, room / "www" / rung, *RUNGS[rung]) for rung in RUNGS))
    await serve_folder(host, room, ENDPOINTS, PLAIN)


async def _encode(host: Host, folder: Path, size: str, rate_kbps: int) -> None:
    folder.mkdir(parents=True)
    await host.run(
        program("ffmpeg"), "-v", "error",
        "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=12,noise=alls=20:allf=t",
        "-t", str(SEGMENTS * SEGMENT_S), "-c:v", "libx264", "-preset", "ultrafast",
        "-threads", "1", "-b:v", f"{rate_kbps}k", "-maxrate", f"{rate_kbps}k", "-bufsize", f"{rate_kbps}k",
        "-force_key_frames", f"expr:gte(t,n_forced*{SEGMENT_S})",
        "-f", "hls", "-hls_time", str(SEGMENT_S), "-hls_list_size", "0", "-hls_playlist_type", "vod",
        "-hls_segment_filename", str(folder / "%d.ts"), str(folder / "index.m3u8"),
        timeout_s=60,
    )  # fmt: skip


async def visit(host: Host) -> None:
    """Watch for some seconds."""
    endpoint = host.random.choice(ENDPOINTS)
    tls = endpoint.port not in PLAIN
    if host.random.random() < 0.35:
        url = host.url("https" if tls else "http", endpoint.server, endpoint.port)
        rung = host.random.choice(list(RUNGS))
        length_s = host.random.uniform(3, 7)
        await host.run(
            program("ffmpeg"), "-v", "error", "-re", "-t", f"{length_s:.1f}",
            "-i", f"{url}/{rung}/index.m3u8", "-c", "copy", "-f", "null", "-",
        )  # fmt: skip
        return
    await _play(host, host.address(endpoint.server, host.version()), endpoint.port, tls)


async def _play(host: Host, address: str, port: int, tls: bool) -> None:
    """Fetch segments over one connection: two at once to fill the buffer, then one per segment length."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=10)
    rungs = list(RUNGS)
    rung = host.random.choice((0, 1))
    first = host.random.randrange(SEGMENTS - 4)
    try:
        await asyncio.to_thread(_get, connection, f"/{rungs[rung]}/index.m3u8")
        for number in range(first, min(SEGMENTS, first + host.random.randint(2, 6))):
            await asyncio.to_thread(_get, connection, f"/{rungs[rung]}/{number}.ts")
            if number > first:
                await host.think(0.8 * SEGMENT_S, 1.1 * SEGMENT_S)
            rung = max(0, min(len(rungs) - 1, rung + host.random.choice((-1, 0, 0, 1))))
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("GET", path, headers={"User-Agent": "LabPlayer/1.0"})
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise OSError(f"GET {path}: status {response.status}")


APP = App(
    "video", "video", ENDPOINTS, serve, visit, pause_s=4,
    programs=("ffmpeg", "nginx", "openssl"), debian=("ffmpeg", "nginx", "openssl"),
)  # fmt: skip
