"""A wire between two network namespaces of its own: what is sent into one end is seen at the other alone."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from infra.lab.network import NetworkError, end_processes, run_ip

SENDING, SEEING = "wire-a", "wire-b"
"""Names of the two ends."""
_NEW_NETWORK = 0x40000000
_NAMESPACES = Path("/run/netns")


class Wire:
    """Context manager: the namespaces ``sender`` and ``probe``, joined by a veth pair, exist between enter and exit.

    The ends have no addresses and no IPv6, so that nothing is sent that nobody asked for.
    """

    def __init__(self) -> None:
        prefix = f"fg-{secrets.token_hex(3)}"
        self.sender, self.probe = f"{prefix}-sender", f"{prefix}-probe"
        self._made: list[str] = []

    def __enter__(self) -> Wire:
        try:
            for name in (self.sender, self.probe):
                run_ip("netns", "add", name)
                self._made.append(name)
                run_ip("-n", name, "link", "set", "lo", "up")
            self.connect()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._remove()

    def connect(self) -> None:
        """Make the wire; to be called again after ``cut``."""
        # A queue for each CPU, so that none has to wait for what another has put in.
        queues = str(os.cpu_count() or 1)
        each = ("numtxqueues", queues, "numrxqueues", queues)
        run_ip("link", "add", "name", SENDING, "netns", self.sender, *each,
            "type", "veth", "peer", "name", SEEING, "netns", self.probe, *each)  # fmt: skip
        for namespace, end in ((self.sender, SENDING), (self.probe, SEEING)):
            run_ip("-n", namespace, "link", "set", end, "addrgenmode", "none")
            run_ip("-n", namespace, "link", "set", end, "up")

    def cut(self) -> None:
        """Take the wire away: both interfaces are gone."""
        run_ip("-n", self.probe, "link", "del", SEEING)

    def turn(self, state: str) -> None:
        """Set the seeing end ``up`` or ``down``."""
        run_ip("-n", self.probe, "link", "set", SEEING, state)

    def arrived(self) -> tuple[int, int]:
        """Return the packets that arrived at the seeing end since it was made, and those lost on the way there."""
        answer = subprocess.run(
            ["ip", "-n", self.probe, "-s", "-j", "link", "show", SEEING],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        received = json.loads(answer.stdout)[0]["stats64"]["rx"]
        return int(received["packets"]), int(received["dropped"]) + int(received["errors"])

    def _remove(self) -> None:
        for name in self._made:
            end_processes(name)
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._made.clear()


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Have this thread, and the processes that it starts, live in a network namespace inside the block."""
    libc = ctypes.CDLL(None, use_errno=True)

    def go_to(path: Path | str) -> None:
        with Path(path).open("rb") as there:
            if libc.setns(there.fileno(), _NEW_NETWORK):
                raise NetworkError(f"network namespace {path}: {os.strerror(ctypes.get_errno())}")

    with Path("/proc/thread-self/ns/net").open("rb") as home:
        go_to(_NAMESPACES / namespace)
        try:
            yield
        finally:
            libc.setns(home.fileno(), _NEW_NETWORK)
