"""pcap-over-IP: captures that come over TCP, from a sensor that is called, or from those that call."""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import socket
import termios
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from producers.probe.config import ProbeSettings
from producers.probe.log import LOGGER
from producers.probe.source import Block, Reading
from producers.probe.streamed import NothingYet, StreamedCapture, warm_up
from schemas.errors import InputError, SettingsError

log = logging.getLogger(LOGGER)

MAX_PEERS = 16
"""Most sensors that send at once to a source that listens; others wait to be accepted."""
_FIRST_RETRY_S, _MOST_RETRY_S = 0.5, 30.0
_CONNECT_S = 10.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


@dataclass(frozen=True)
class Address:
    """A place of TCP, and its name as the user wrote it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, what: str) -> Address:
    """Return the address that ``host:port`` or ``[v6]:port`` names; raises SettingsError for anything else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) < 65_536:
        raise SettingsError(f"{what} {text}: write it as host:port")
    return Address(host, int(port))


class _Peer:
    """A connection: the bytes of one capture."""

    def __init__(self, connection: socket.socket, name: str, reading: Reading) -> None:
        self.socket, self.name = connection, name
        self.left: int | None = None
        """Bytes that are still read, once the source is stopped."""
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self.capture = StreamedCapture(name, self, reading)

    def read(self, size: int) -> bytes:
        """Return what has come, nothing at the end; raises NothingYet."""
        if self.left is not None:
            size = min(size, self.left)
            if size == 0:
                raise NothingYet
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            raise NothingYet from None
        if self.left is not None:
            self.left -= len(data)
        return data

    def stop(self) -> None:
        """Read what is at hand now, and no more."""
        found = array.array("i", [0])
        fcntl.ioctl(self.socket, termios.FIONREAD, found)
        self.left = found[0]


class _TcpSource:
    """What both ends share: connections and what came of them."""

    def __init__(self, name: str) -> None:
        self.name, self.at_end = name, False
        self._peers: list[_Peer] = []
        self._stopped = False
        self._events: Counter[str] = Counter()
        self._frames: Counter[str] = Counter()
        """Of connections that are closed."""
        self._turn = 0

    def start(self, reading: Reading) -> None:
        """Take in how to read; compiles or loads the kernels."""
        self._reading = reading
        warm_up(reading)
        for peer in self._peers:
            peer.capture.use(reading)

    def reload(self, settings: ProbeSettings) -> None:
        """Do nothing: where captures come from stays as it is."""

    def read(self) -> Block | None:
        """Return the packets at hand of one connection; they take turns."""
        for _ in range(len(self._peers)):
            self._turn = (self._turn + 1) % len(self._peers)
            peer = self._peers[self._turn]
            try:
                found = peer.capture.read()
            except InputError as error:
                self._lose(peer, "streams_refused", str(error))
                break
            except OSError as error:
                self._lose(peer, "connections_lost", f"{peer.name}: {error.strerror or error}")
                break
            if peer.capture.at_end:
                cut = f"; the capture {peer.capture.warning}" if peer.capture.warning else ""
                self._lose(peer, "connections_closed", f"{peer.name}: closed by the other end{cut}")
            if found is not None:
                return Block(peer.name, *found)
            if peer.capture.at_end:
                break
        return None

    def _lose(self, peer: _Peer, event: str, line: str) -> None:
        log.warning("%s", line)
        self._events[event] += 1
        self._frames.update(peer.capture.frames())
        peer.socket.close()
        self._peers.remove(peer)
        self._turn = 0
        self.lost()

    def lost(self) -> None:
        """Do what the loss of a connection asks for."""

    def stop(self) -> None:
        """Take in no more; what has come can still be read."""
        self._stopped = True
        for peer in self._peers:
            peer.stop()

    def frames(self) -> Counter[str]:
        """Return the packets read of all connections, and by reason those skipped."""
        return sum((peer.capture.frames() for peer in self._peers), self._frames.copy())

    def events(self) -> Counter[str]:
        """Return what happened to connections."""
        return self._events.copy()

    def gauges(self) -> dict[str, float]:
        """Return how many connections are open."""
        return {f"connections_{self.name}": float(len(self._peers))}

    def close(self) -> None:
        """Close everything."""
        for peer in self._peers:
            peer.socket.close()


class TcpClient(_TcpSource):
    """Calls a sensor that sends a capture to whoever calls, and calls again when the connection is lost.

    Args:
        address: of the sensor; its name is looked up now, and again while it cannot be reached.
        clock_s: never goes back.

    Raises:
        SettingsError: the name is unknown.
    """

    def __init__(self, address: Address, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(f"tcp://{address}")
        self._address, self._clock_s = address, clock_s
        self._places = _look_up(address, f"source {self.name}")
        self._calling: socket.socket | None = None
        self._since_s = self._next_s = clock_s()
        self._wait_s = _FIRST_RETRY_S
        self._tries = 0

    def files(self) -> Sequence[int]:
        """Return the connection, if there is one."""
        return [peer.socket.fileno() for peer in self._peers]

    def read(self) -> Block | None:
        """Return the packets at hand; a sensor that sends some is worth calling again soon."""
        block = super().read()
        if block is not None:
            self._wait_s = _FIRST_RETRY_S
        return block

    def tick(self) -> None:
        """Call, or see whether the call was answered."""
        now_s = self._clock_s()
        if self._peers or self._stopped:
            return
        if self._calling is not None:
            self._answered(self._calling, now_s)
        elif now_s >= self._next_s:
            self._call(now_s)

    def _call(self, now_s: float) -> None:
        family, place = self._places[self._tries % len(self._places)]
        self._tries += 1
        self._calling, self._since_s = socket.socket(family, socket.SOCK_STREAM), now_s
        self._calling.setblocking(False)
        code = self._calling.connect_ex(place)
        if code not in (0, errno.EINPROGRESS):
            self._failed(os.strerror(code), now_s)

    def _answered(self, calling: socket.socket, now_s: float) -> None:
        code = calling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(os.strerror(code), now_s)
            return
        try:
            calling.getpeername()
        except OSError:
            if now_s - self._since_s > _CONNECT_S:
                self._failed(f"no answer within {_CONNECT_S:.0f} s", now_s)
            return
        self._calling = None
        self._events["connections"] += 1
        self._peers.append(_Peer(calling, self.name, self._reading))
        log.info("%s: connected", self.name)

    def _failed(self, why: str, now_s: float) -> None:
        if self._calling is not None:
            self._calling.close()
            self._calling = None
        self._events["connections_failed"] += 1
        log.warning("%s: %s; calling again in %.1f s", self.name, why, self._wait_s)
        self._later(now_s)

    def lost(self) -> None:
        """Call again after a while."""
        self._later(self._clock_s())

    def _later(self, now_s: float) -> None:
        self._next_s = now_s + self._wait_s
        self._wait_s = min(2 * self._wait_s, _MOST_RETRY_S)

    def close(self) -> None:
        """Hang up."""
        super().close()
        if self._calling is not None:
            self._calling.close()


class TcpServer(_TcpSource):
    """Listens for sensors that call and send a capture each.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(f"tcp-listen://{address}")
        ((family, place), *_) = _look_up(address, f"source {self.name}")
        self._listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listening.bind(place)
            self._listening.listen(MAX_PEERS)
        except OSError as error:
            self._listening.close()
            raise SettingsError(f"source {self.name}: cannot listen there: {error.strerror}") from None
        self._listening.setblocking(False)
        self.port = int(self._listening.getsockname()[1])

    def files(self) -> Sequence[int]:
        """Return the connections, and where new ones come in."""
        mine = [] if self._stopped or len(self._peers) >= MAX_PEERS else [self._listening.fileno()]
        return [*mine, *(peer.socket.fileno() for peer in self._peers)]

    def read(self) -> Block | None:
        """Take in who calls; return the packets at hand of one connection."""
        if not self._stopped and len(self._peers) < MAX_PEERS:
            self._accept()
        return super().read()

    def _accept(self) -> None:
        try:
            connection, place = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        peer = Address(str(place[0]), int(place[1]))
        self._events["connections"] += 1
        log.info("%s: %s sends a capture", self.name, peer)
        self._peers.append(_Peer(connection, f"tcp://{peer}", self._reading))

    def tick(self) -> None:
        """Do nothing: connections tell by themselves."""

    def close(self) -> None:
        """Close everything."""
        super().close()
        self._listening.close()


def _look_up(address: Address, what: str) -> list[tuple[int, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{what}: {getattr(error, 'strerror', None) or error}") from None
    return [(int(family), place) for family, _, _, _, place in found]
