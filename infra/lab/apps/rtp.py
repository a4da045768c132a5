"""Voice calls: RTP audio both ways, 50 packets/s each, with RTCP; ffmpeg speaks at both ends.

Which ports a call uses is agreed over a Unix socket, which crosses namespaces and is not on the wire.
"""

from __future__ import annotations

import asyncio
import itertools
import json

from infra.lab.app import UDP, App, Endpoint, program
from infra.lab.host import Host
from infra.lab.plan import client_address

CALLS = 150
_FIRST_PORT = 16384
_SERVERS = (1, 2)
# RTP takes the even port of a pair, RTCP the odd one.
ENDPOINTS = tuple(Endpoint(s, _FIRST_PORT + n, UDP) for s in _SERVERS for n in range(2 * CALLS))

_CODECS = {
    "pcmu": ("8000", "160", ["-c:a", "pcm_mulaw"]),
    "pcma": ("8000", "160", ["-c:a", "pcm_alaw"]),
    "opus": (
        "48000",
        "960",
        ["-c:a", "libopus", "-b:a", "24k", "-frame_duration", "20", "-application", "voip"],
    ),
}


def _speak(
    codec: str, local: str, local_port: int, remote: str, remote_port: int, seconds: float
) -> list[str]:
    """Return the command that sends noise as audio, one packet each 20 ms."""
    rate, samples, options = _CODECS[codec]
    source = f"anoisesrc=r={rate}:nb_samples={samples}:color=pink:amplitude=0.3"
    host = f"[{remote}]" if ":" in remote else remote
    ports = f"localrtpport={local_port}&localrtcpport={local_port + 1}"
    return [
        program("ffmpeg"), "-v", "error", "-re", "-f", "lavfi", "-i", source, "-t", f"{seconds:.2f}",
        "-ac", "1", *options, "-f", "rtp", f"rtp://{host}:{remote_port}?{ports}&localaddr={local}",
    ]  # fmt: skip


async def serve(host: Host) -> None:
    """Answer calls that are announced on the socket, each on a port pair of its own."""
    pairs = itertools.count()
    running: set[asyncio.Task[bytes]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = json.loads(await reader.readline())
        port = _FIRST_PORT + 2 * (next(pairs) % CALLS)
        command = _speak(call["codec"], call["server"], port, call["client"], call["port"], call["seconds"])
        task = asyncio.create_task(host.run(*command))
        running.add(task)
        task.add_done_callback(running.discard)
        writer.write(f"{port}\n".encode())
        await writer.drain()
        writer.close()

    await asyncio.start_unix_server(answer, host.room("rtp") / "calls")


async def visit(host: Host) -> None:
    """Call for some seconds."""
    version = host.version()
    seconds = host.random.uniform(1.2, 3.2)
    port = 20_000 + 2 * host.random.randrange(5000)
    codec = host.random.choice(list(_CODECS))
    server = host.random.choice(_SERVERS)
    reader, writer = await asyncio.open_unix_connection(host.room("rtp") / "calls")
    ends = {"client": client_address(host.index, version), "server": host.address(server, version)}
    call = {"codec": codec, "port": port, "seconds": seconds, **ends}
    writer.write(json.dumps(call).encode() + b"\n")
    remote_port = int(await reader.readline())
    writer.close()
    await host.run(*_speak(codec, ends["client"], port, ends["server"], remote_port, seconds))


APP = App(
    "rtp",
    "rtp",
    ENDPOINTS,
    serve,
    visit,
    pause_s=12,
    on_demand=True,
    programs=("ffmpeg",),
    debian=("ffmpeg",),
)
