"""The switch between servers and clients: carries frames with delays, past an observation point midway.

Between namespaces a packet takes some microseconds, which no network does, and kernels built without netem
cannot slow it down. So this process passes the frames on (AF_PACKET on every port): each client sits behind
a line with a delay of its own, each server behind another, with a little jitter that never reorders. Between
the two lines a copy of each frame leaves through the port ``middle``: there a gateway's probe would stand,
and there the lab captures.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from infra.lab.capture import wire_frames
from infra.lab.plan import FIRST_SERVER, SERVERS
from infra.lab.shaper import Shaper, Trace

_ETH_P_ALL = 0x0003
_SO_RCVBUFFORCE = 33
_PACKET_OUTGOING = 4
_IDLE_S = 0.2

CLIENT_ROUND_TRIP_MS = (2, 4, 7, 12, 20, 35)
"""Round-trip time between the middle and client 0, 1, … (from the start again for further clients)."""
SERVER_ROUND_TRIP_MS = (1, 9, 22, 48)
"""Round-trip time between the middle and each server."""

MIDDLE, SERVER = "middle", "server"


class Line:
    """One direction between one client and one server: two delays with jitter, first in first out."""

    def __init__(self, first_ms: float, second_ms: float, dice: random.Random) -> None:
        self._delays_s = (first_ms / 2000, second_ms / 2000)
        self._dice = dice
        self._middle_s = self._due_s = 0.0

    def times_s(self, now_s: float) -> tuple[float, float]:
        """Return when a frame that enters now passes the middle, and when it leaves."""
        jitter = 1 + 0.1 * self._dice.random()
        self._middle_s = max(self._middle_s, now_s + self._delays_s[0] * jitter)
        self._due_s = max(self._due_s, self._middle_s + self._delays_s[1] * jitter)
        return self._middle_s, self._due_s


def server_of(frame: bytes, up: bool) -> int:
    """Return the index of the server that a frame goes to (``up``) or comes from; 0 for ARP and the like."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34:
        last = frame[33] if up else frame[29]
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        last = frame[53] if up else frame[37]
    else:
        return 0
    index = last - FIRST_SERVER
    return index if 0 <= index < SERVERS else 0


class Switch:
    """Ports by index: 0 the middle, 1 the servers', 2 and up the clients'. Clients do not see each other."""

    def __init__(
        self, ports: list[socket.socket], seed: int, rates: Mapping[int, Trace] | None = None
    ) -> None:
        self._ports = ports
        self._dice = random.Random(seed)  # noqa: S311 - jitter
        self._lines: dict[tuple[int, int, bool], Line] = {}
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._clients: dict[bytes, int] = {}
        now_s = time.monotonic()
        # What comes from the servers passes the narrow place before the middle, as on a gateway behind an access line.
        self._shapers = {port + 2: Shaper(trace, now_s) for port, trace in (rates or {}).items()}

    def run(self, stop: threading.Event) -> None:
        """Carry frames until ``stop`` is set."""
        numbers = {port.fileno(): i for i, port in enumerate(self._ports) if i}
        while not stop.is_set():
            wait_s = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else _IDLE_S
            for handle in select.select(list(numbers), [], [], min(wait_s, _IDLE_S))[0]:
                self._receive(numbers[handle])
            self._send(time.monotonic())

    def _receive(self, port: int) -> None:
        frame, sender = self._ports[port].recvfrom(65536)
        if sender[2] == _PACKET_OUTGOING:
            return
        if port > 1:
            self._clients[frame[6:12]] = port
            self._put(frame, port, up=True, to=[1])
        elif known := self._clients.get(frame[:6]):
            self._put(frame, known, up=False, to=[known])
        else:
            self._put(frame, 2, up=False, to=list(range(2, len(self._ports))))

    def _put(self, frame: bytes, client: int, *, up: bool, to: list[int]) -> None:
        """Queue a frame for the middle and for the ports it goes to."""
        now_s: float | None = time.monotonic()
        if not up and client in self._shapers:
            now_s = self._shapers[client].leaves_s(time.monotonic(), len(frame))
        if now_s is None:
            return
        middle_s, due_s = self._line(client, server_of(frame, up), up).times_s(now_s)
        for port, at_s in [(0, middle_s), *((port, due_s) for port in to)]:
            self._count += 1  # frames due at the same instant leave in the order they came
            heapq.heappush(self._queue, (at_s, self._count, port, frame))

    def _line(self, client: int, server: int, up: bool) -> Line:
        line = self._lines.get((client, server, up))
        if line is None:
            outer = CLIENT_ROUND_TRIP_MS[(client - 2) % len(CLIENT_ROUND_TRIP_MS)]
            inner = SERVER_ROUND_TRIP_MS[server]
            line = Line(*((outer, inner) if up else (inner, outer)), self._dice)
            self._lines[client, server, up] = line
        return line

    def _send(self, now_s: float) -> None:
        while self._queue and self._queue[0][0] <= now_s:
            _, _, port, frame = heapq.heappop(self._queue)
            with contextlib.suppress(OSError):  # a port that is gone, or full as a real line would be
                self._ports[port].send(frame)


def _open(interface: str) -> socket.socket:
    if interface != MIDDLE:
        wire_frames(interface)
    handle = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    handle.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    handle.bind((interface, _ETH_P_ALL))
    return handle


def main() -> None:
    """Carry frames between port ``server`` and ports ``client0`` … until SIGTERM; prints ``ready``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clients", type=int)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rates", type=Path, help="JSON: client to [[second, bits per second], …]")
    arguments = parser.parse_args()
    rates = json.loads(arguments.rates.read_text(encoding="utf-8")) if arguments.rates else {}
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    names = [MIDDLE, SERVER, *(f"client{i}" for i in range(arguments.clients))]
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(_open(name)) for name in names]
        print("ready", flush=True)
        traces = {int(client): trace for client, trace in rates.items()}
        Switch(ports, arguments.seed, traces).run(stop)


if __name__ == "__main__":
    main()
