"""Network namespaces of the lab: one for all servers, one per client, one for the switch between them.

Names carry a random suffix, so that several labs can run on one machine and none can touch a namespace that
it did not make. Every process in such a namespace was started by this lab.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from types import TracebackType

from infra.lab.plan import SERVERS, client_address, server_address
from infra.lab.switch import MIDDLE, SERVER
from schemas.errors import FlowgaugeError

INTERFACE = "eth0"


class NetworkError(FlowgaugeError):
    """The namespaces could not be made; the message holds the command and its answer."""


def lab_names(clients: int, suffix: str | None = None) -> tuple[str, str, list[str]]:
    """Return the names of the switch's, the servers' and the clients' namespaces."""
    prefix = f"fg-{suffix or secrets.token_hex(3)}"
    return f"{prefix}-switch", f"{prefix}-server", [f"{prefix}-client{i}" for i in range(clients)]


class Network:
    """Context manager: the namespaces exist, wired to the switch's and addressed, between enter and exit."""

    def __init__(self, clients: int) -> None:
        self.switch, self.server, self.clients = lab_names(clients)
        self._made: list[str] = []

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._remove()

    def _build(self) -> None:
        for name in (self.switch, self.server, *self.clients):
            run_ip("netns", "add", name)
            self._made.append(name)
            run_ip("-n", name, "link", "set", "lo", "up")
        run_ip("-n", self.switch, "link", "add", MIDDLE, "type", "veth", "peer", "name", "middle-end")
        for end in (MIDDLE, "middle-end"):
            run_ip("-n", self.switch, "link", "set", end, "addrgenmode", "none")
            run_ip("-n", self.switch, "link", "set", end, "up")
        servers = [server_address(i, v) for i in range(SERVERS) for v in (4, 6)]
        self._connect(self.server, SERVER, servers)
        for i, name in enumerate(self.clients):
            self._connect(name, f"client{i}", [client_address(i, 4), client_address(i, 6)])

    def _connect(self, namespace: str, port: str, addresses: list[str]) -> None:
        """Plug a namespace into the switch and give it its addresses."""
        run_ip("link", "add", "name", port, "netns", self.switch,
            "type", "veth", "peer", "name", INTERFACE, "netns", namespace)  # fmt: skip
        # No link-local address and no duplicate address detection: less traffic that no program asked for.
        run_ip("-n", self.switch, "link", "set", port, "addrgenmode", "none", "promisc", "on")
        run_ip("-n", namespace, "link", "set", INTERFACE, "addrgenmode", "none")
        run_ip("-n", self.switch, "link", "set", port, "up")
        run_ip("-n", namespace, "link", "set", INTERFACE, "up")
        for address in addresses:
            if ":" in address:
                run_ip("-n", namespace, "addr", "add", f"{address}/64", "dev", INTERFACE, "nodad")
            else:
                run_ip("-n", namespace, "addr", "add", f"{address}/16", "dev", INTERFACE)

    def _remove(self) -> None:
        for name in self._made:
            end_processes(name)
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._made.clear()


def end_processes(namespace: str) -> None:
    """End every process in a namespace of ours, first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(20):
            pids = _pids(namespace)
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.1)


def _pids(namespace: str) -> list[int]:
    answer = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True)
    return [int(pid) for pid in answer.stdout.split()]


def run_ip(*arguments: str) -> None:
    """Run ``ip``; raises NetworkError with its answer."""
    answer = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if answer.returncode:
        raise NetworkError(f"ip {' '.join(arguments)}: {answer.stderr.strip() or 'failed'}")


def inside(namespace: str, *argv: str) -> list[str]:
    """Return the command line that runs a program in a namespace, with a host name of its own."""
    return ["ip", "netns", "exec", namespace, "unshare", "--uts", *argv]


def can_make_namespaces() -> str | None:
    """Return None where the lab can run, else one line that says why not."""
    if os.geteuid() != 0:
        return "the traffic lab needs root: it makes network namespaces and captures from them"
    name = f"fg-{secrets.token_hex(3)}-probe"
    try:
        run_ip("netns", "add", name)
    except (NetworkError, OSError) as error:
        return f"the traffic lab needs network namespaces: {error}"
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return None
