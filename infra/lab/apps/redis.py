"""A key-value database: Redis, asked by redis-cli."""

from __future__ import annotations

from infra.lab.app import TCP, App, Endpoint, program
from infra.lab.host import Host

ENDPOINTS = (Endpoint(1, 6379, TCP), Endpoint(3, 6380, TCP))

_COMMANDS = (
    "SET key:{0} {2}", "GET key:{0}", "GET key:{0}", "INCR visits", "LPUSH queue {2}", "LRANGE queue 0 9",
    "HSET unit:{0} name lab value {1}", "HGETALL unit:{0}", "EXPIRE key:{0} 60", "ZADD rank {1} {0}",
    "ZRANGE rank 0 {1}",
)  # fmt: skip


async def serve(host: Host) -> None:
    """Start one server per endpoint."""
    room = host.room("redis")
    for endpoint in ENDPOINTS:
        await host.start(
            program("redis-server"), "--port", str(endpoint.port), "--bind", *host.both(endpoint.server),
            "--protected-mode", "no", "--save", "", "--dir", str(room),
        )  # fmt: skip


async def visit(host: Host) -> None:
    """One connection that repeats one command one to fifteen times, at once or with pauses.

    Not typed into redis-cli's prompt: it fetches the server's whole manual (100 kB) at each start.
    """
    endpoint = host.random.choice(ENDPOINTS)
    words = host.random.choice(_COMMANDS).format(
        host.random.randrange(200), host.random.randrange(60), "v" * host.random.randint(3, 500)
    )
    pause_s = host.random.choice((0, 0.05, 0.4))
    times = host.random.randint(1, 15 if pause_s < 0.4 else 8)
    await host.run(
        program("redis-cli"), "-h", host.address(endpoint.server, host.version()), "-p", str(endpoint.port),
        "-r", str(times), "-i", str(pause_s), *words.split(),
    )  # fmt: skip


APP = App(
    "redis", "database", ENDPOINTS, serve, visit, pause_s=5,
    programs=("redis-server", "redis-cli"), debian=("redis-server", "redis-tools"),
)  # fmt: skip
