"""tshark beside the decoder: what only a full dissector sees, for the fields that the settings name.

The bytes of one capture go to our decoder and, the same, to tshark, which answers a line a packet. Packets take the
usual way; the fields of each go to a topic of their own, ``packets.fields``. tshark dissects far fewer packets a
second than a ring takes in, and the capture is read no faster than that: what comes faster is dropped by the kernel,
and counted.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from producers.columns import PacketColumns
from producers.probe.config import ProbeSettings
from producers.probe.log import LOGGER
from producers.probe.ring.sockets import CaptureError
from producers.probe.source import Block, Reading
from producers.probe.streamed import NothingYet, StreamedCapture, warm_up
from schemas.community_id import address_text
from schemas.errors import InputError, SettingsError

log = logging.getLogger(LOGGER)

MOST_WAITING = 4096
"""Packets that may wait for their line before the capture is read on."""
_CHUNK_OCTETS = 65_536
_END_S = 5.0
"""How long the last lines are waited for at the end."""
_CHECK_TIMEOUT_S = 60.0
_EMPTY_PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
_DROPPED = re.compile(r"Packets received/dropped on interface .*: \d+/(\d+)")
_HOME = {"HOME": "/nonexistent", "WIRESHARK_CONFIG_DIR": "/nonexistent"}
"""tshark has no settings of whoever runs the probe."""


@dataclass(frozen=True)
class TsharkOptions:
    """What to capture and what to ask for."""

    place: str
    """An interface, or the path of a capture (with a slash)."""
    fields: tuple[str, ...]
    filter: str = ""
    user: str = ""
    """User that tshark runs as, where the probe is root: a dissector has no need of rights."""


@runtime_checkable
class Dissects(Protocol):
    """A source that tells more of packets than columns hold."""

    def dissected(self) -> list[dict[str, Any]]:
        """Return the ``PacketFields`` records that are ready, all but the name of the probe in them."""


@dataclass(frozen=True)
class _Tee:
    """The bytes of a capture, which tshark gets as well."""

    read: Callable[[int], bytes]


class TsharkSource:
    """Captures through dumpcap, or reads a file, and has tshark dissect each packet.

    Raises:
        SettingsError: no field, one that tshark does not know, or no tshark.
        CaptureError: the interface cannot be captured from.
        InputError: the file cannot be read.
    """

    def __init__(self, options: TsharkOptions) -> None:
        self.name, self.at_end = f"tshark://{options.place}", False
        self._options = options
        self._is_file = "/" in options.place
        self._user = options.user if os.geteuid() == 0 and options.user else None
        _check_fields(options, self._user)
        self._dumpcap = None if self._is_file else self._capture()
        self._input = self._open_file() if self._dumpcap is None else self._dumpcap.stdout.fileno()  # type: ignore[union-attr]
        os.set_blocking(self._input, False)
        self._tshark = self._start_tshark()
        self._lines = self._tshark.stdout.fileno()  # type: ignore[union-attr]
        """Where tshark answers."""
        self._reader: StreamedCapture | None = None
        self._unsent = b""
        """Bytes that tshark has not taken yet."""
        self._line = b""
        self._rows: dict[int, dict[str, Any]] = {}
        """Packets that wait for their line, by their number in the capture."""
        self._values: dict[int, list[str]] = {}
        """Lines of packets that are not decoded yet: tshark may be the quicker one."""
        self._decoded = 0
        """Packets that the decoder has seen."""
        self._ready: list[dict[str, Any]] = []
        self._events: Counter[str] = Counter()
        self._dropped = 0
        self._stopped = self._told_all = False
        log.warning("%s: each packet is dissected by tshark, which is far slower than a ring", self.name)

    def _capture(self) -> subprocess.Popen[bytes]:
        command = ["dumpcap", "-q", "-i", self._options.place, "-F", "pcap", "-w", "-"]
        command += ["-f", self._options.filter] if self._options.filter else []
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise SettingsError(f"source {self.name}: dumpcap cannot be run: {error.strerror}") from None

    def _open_file(self) -> int:
        try:
            return os.open(self._options.place, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{self._options.place}: cannot be read: {error.strerror}") from None

    def _start_tshark(self) -> subprocess.Popen[bytes]:
        found = subprocess.Popen(
            _command(self._options.fields),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=self._user,
            env={**os.environ, **_HOME},
        )
        for pipe in (found.stdin, found.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        return found

    def start(self, reading: Reading) -> None:
        """Take in how to read; compiles or loads the kernels."""
        if reading.privacy is not None:
            raise SettingsError(
                f"source {self.name}: tshark tells fields as they are, which [privacy] is to hide"
            )
        # One packet at a time, so that its number in the capture is known.
        one = reading._replace(block_packets=1)
        warm_up(one)
        if self._reader is None:
            self._reader = StreamedCapture(self.name, _Tee(self._bytes), one)
        else:
            self._reader.use(one)

    def reload(self, settings: ProbeSettings) -> None:
        """Do nothing: where captures come from stays as it is."""

    def files(self) -> Sequence[int]:
        """Return where the capture comes from, unless tshark is behind, and where the lines come from."""
        lines = self._lines
        return (lines,) if self._is_behind or self._reading.at_end else (self._input, lines)

    @property
    def _is_behind(self) -> bool:
        return bool(self._unsent) or len(self._rows) >= MOST_WAITING

    def _bytes(self, size: int) -> bytes:
        """Return bytes of the capture, which tshark is given as well."""
        self._send()
        if self._is_behind:
            raise NothingYet
        try:
            data = os.read(self._input, min(size, _CHUNK_OCTETS))
        except BlockingIOError:
            raise NothingYet from None
        self._unsent = data
        self._send()
        if not data:
            self._close_input()
        return data

    def _send(self) -> None:
        if not self._unsent:
            return
        try:
            sent = os.write(self._tshark.stdin.fileno(), self._unsent)  # type: ignore[union-attr]
        except BlockingIOError:
            return
        except OSError as error:
            raise InputError(f"{self.name}: tshark ended: {error.strerror}") from None
        self._unsent = self._unsent[sent:]

    def _close_input(self) -> None:
        self._tshark.stdin.close()  # type: ignore[union-attr]
        if self._dumpcap is not None:
            said = self._dumpcap.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
            dropped = _DROPPED.search(said)
            self._dropped = int(dropped[1]) if dropped else 0
            if self._dumpcap.wait() and not self._stopped:
                why = " ".join(said.split())[-300:]
                raise CaptureError(f"source {self.name}: dumpcap: {why or 'ended'}")

    def read(self) -> Block | None:
        """Return a packet, or None where none is at hand."""
        self._take_lines()
        capture = self._reading
        found = None if capture.at_end else capture.read()
        before, self._decoded = self._decoded, int(capture.frames()["read"])
        if found is not None:
            self._rows[self._decoded] = _identity(found[0], self.name)
        for number in range(before + 1, self._decoded + 1):
            if (values := self._values.pop(number, None)) is not None:
                self._told(number, values)
        if found is not None:
            return Block(self.name, *found)
        if capture.at_end and not self._told_all:
            # The last lines; nothing else is to be done meanwhile.
            select.select([self._lines], [], [], _END_S if self._stopped or self._is_file else 0)
            self._take_lines()
        self.at_end = capture.at_end and self._told_all
        return None

    @property
    def _reading(self) -> StreamedCapture:
        if self._reader is None:
            raise RuntimeError("the source has not been started")
        return self._reader

    def _take_lines(self) -> None:
        with suppress(BlockingIOError):
            while not self._told_all:
                data = os.read(self._lines, _CHUNK_OCTETS)
                if not data:
                    self._told_all = True
                    if not self._reading.at_end:
                        raise InputError(f"{self.name}: tshark ended with code {self._tshark.wait()}")
                *lines, self._line = (self._line + data).split(b"\n")
                for line in lines:
                    number, *values = line.decode(errors="replace").split("\t")
                    if number.isdigit() and int(number) > self._decoded:
                        self._values[int(number)] = values
                    elif number.isdigit():
                        self._told(int(number), values)

    def _told(self, number: int, values: Sequence[str]) -> None:
        """Take in what tshark says of a packet that is decoded: its value of each field."""
        row = self._rows.pop(number, None)
        if row is None:
            self._events["fields_without_packet"] += 1
            return
        told = dict(zip(_asked(self._options.fields), (str(number), *values), strict=False))
        row["fields"] = {name: told[name] for name in self._options.fields if told.get(name)}
        self._events["packets_dissected"] += 1
        self._ready.append(row)

    def dissected(self) -> list[dict[str, Any]]:
        """Return the ``PacketFields`` records that are ready, all but the name of the probe in them."""
        ready, self._ready = self._ready, []
        return ready

    def tick(self) -> None:
        """Give tshark what it has not taken yet."""
        self._send()

    def stop(self) -> None:
        """Capture no more; what was captured can still be read."""
        self._stopped = True
        if self._dumpcap is not None:
            with suppress(ProcessLookupError):
                self._dumpcap.send_signal(signal.SIGINT)

    def frames(self) -> Counter[str]:
        """Return the packets seen, those that the kernel dropped among them, and by reason those skipped."""
        seen = Counter[str]() if self._reader is None else self._reader.frames()
        return seen + Counter(read=self._dropped, kernel_dropped=self._dropped)

    def events(self) -> Counter[str]:
        """Return how many packets tshark told of."""
        return self._events.copy()

    def gauges(self) -> dict[str, float]:
        """Return how many packets wait for tshark."""
        return {"tshark_waiting": float(len(self._rows))}

    def close(self) -> None:
        """End the programs."""
        for process in (self._dumpcap, self._tshark):
            if process is not None:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        with suppress(OSError):
                            pipe.close()
        if self._dumpcap is None:
            os.close(self._input)


def _command(fields: Sequence[str]) -> list[str]:
    command = ["tshark", "-n", "-l", "-r", "-", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a"]
    return [*command, *(word for name in _asked(fields) for word in ("-e", name))]


def _asked(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of a line: a packet's number, then each once, since tshark leaves out what comes twice."""
    return tuple(dict.fromkeys(("frame.number", *fields)))


def _check_fields(options: TsharkOptions, user: str | None) -> None:
    """Have tshark read nothing, with these fields."""
    if not options.fields:
        raise SettingsError("source tshark: name the fields that it shall tell (probe.tshark_fields)")
    try:
        done = subprocess.run(
            _command(options.fields),
            input=_EMPTY_PCAP,
            capture_output=True,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
            user=user,
            env={**os.environ, **_HOME},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(
            f"source tshark: tshark cannot be run: {getattr(error, 'strerror', error)}"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines()
        told = [line.strip() for line in said if line.strip() and "running as user" not in line.lower()]
        raise SettingsError(f"probe.tshark_fields: {' '.join(told)[:300] or 'tshark refuses them'}")


def _identity(columns: PacketColumns, point: str) -> dict[str, Any]:
    """Return what is known of the packet in the first row, as a ``PacketFields`` record."""
    version = int(columns.ip_version[0])
    ends = [
        (address_text(address[0].tobytes(), version), int(port[0]))
        for address, port in ((columns.address_a, columns.port_a), (columns.address_b, columns.port_b))
    ]
    (source, source_port), (destination, destination_port) = ends[:: -1 if columns.direction[0] else 1]
    return {
        "schema_version": 1,
        "observation_point": point,
        "time_ns": int(columns.time_ns[0]),
        "source_address": source,
        "destination_address": destination,
        "source_port": source_port,
        "destination_port": destination_port,
        "protocol": int(columns.protocol[0]),
        "octets": int(columns.octets[0]),
        "flow_hash": int(columns.flow_hash[0]),
    }
