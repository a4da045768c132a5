"""A process inside one namespace: the servers of all applications, or one client that visits them.

Speaks JSON lines on standard output: the servers' side says ``{"ready": [names], "failed": {name: reason}}``
and serves until SIGTERM; a client ends by itself and says ``{"visits": …, "failures": …, "errors": …, "made": …}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

from infra.lab.app import App, load_apps
from infra.lab.capture import wire_frames
from infra.lab.host import Host
from infra.lab.network import INTERFACE

GRACE_S = 8.0
"""How long visits under way may go on after the time is up."""


def say(message: dict[str, object]) -> None:
    """Send one message to the lab."""
    print(json.dumps(message), flush=True)


def reason(error: BaseException) -> str:
    """Return an error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]


async def serve(host: Host, apps: list[App]) -> None:
    """Start the servers, report which of them stand, and serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ready: list[str] = []
    failed: dict[str, str] = {}
    for app in apps:
        try:
            await app.serve(host)
            for endpoint in () if app.on_demand else app.endpoints:
                await host.listening(endpoint.protocol, endpoint.port)
            ready.append(app.name)
        except Exception as error:  # one application's failure is told, and spares the others
            failed[app.name] = reason(error)
    say({"ready": ready, "failed": failed})
    await stop.wait()
    await host.stop()


class Client:
    """One client: visits every application again and again until the time is up."""

    def __init__(self, host: Host, apps: list[App], seconds: float) -> None:
        self.host, self.apps, self.seconds = host, apps, seconds
        self.visits: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.errors: dict[str, str] = {}

    async def run(self) -> None:
        """Use all applications side by side; report what was done and what failed."""
        tasks = [asyncio.create_task(self._use(app)) for app in self.apps]
        _, late = await asyncio.wait(tasks, timeout=self.seconds + GRACE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        made = self.host.made
        say({"visits": self.visits, "failures": self.failures, "errors": self.errors, "made": made})

    async def _use(self, app: App) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.seconds
        if not app.once:
            await self.host.think(0, min(app.pause_s, self.seconds / 2))
        while loop.time() < deadline:
            self.visits[app.name] += 1
            try:
                await app.visit(self.host)
            except Exception as error:  # counted by application and shown at the end
                self.failures[app.name] += 1
                self.errors[app.name] = reason(error)
            if app.once:
                return
            await asyncio.sleep(min(self.host.random.expovariate(1 / app.pause_s), 4 * app.pause_s))


def main() -> None:
    """Run one side of the lab; started by ``infra.lab.make`` in a namespace."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("apps")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--client", type=int, default=-1)
    parser.add_argument("--seconds", type=float, default=0)
    arguments = parser.parse_args()
    socket.sethostname("server.lab" if arguments.client < 0 else f"client{arguments.client}.lab")
    wire_frames(INTERFACE)
    host = Host(arguments.folder, arguments.seed, arguments.client, arguments.seconds)
    apps = load_apps(arguments.apps.split(","))
    if arguments.client < 0:
        asyncio.run(serve(host, apps))
    else:
        asyncio.run(Client(host, apps, arguments.seconds).run())
    sys.stdout.flush()
    # Worker threads may still sit in a library's blocking call; nothing is left to write.
    os._exit(0)


if __name__ == "__main__":
    main()
