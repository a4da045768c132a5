"""What nDPI says about the flows of a capture, through NFStream (an extra)."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from flowgauge.ndpi_child import END, Row
from producers.sources.window import MAGIC_OCTETS, CorruptStream, Expander, is_compressed, open_source
from schemas.community_id import address_bytes
from schemas.errors import InputError
from schemas.flow_key import ICMP, ICMP6

_address = lru_cache(maxsize=1 << 14)(address_bytes)

UNKNOWN = "Unknown"
_CHUNK_OCTETS = 1 << 20
_POLL_S = 0.2

Key = tuple[bytes, int, bytes, int, int]
"""Both ends in order of address and port, and the protocol; 0 for ICMP's ports, which NFStream does not tell."""


@dataclass(frozen=True)
class NdpiFlow:
    """A flow as NFStream cut it, and what nDPI calls it."""

    key: Key
    first_ms: int
    last_ms: int
    label: str
    guessed: bool
    """From its port or addresses alone."""


def join_key(a: bytes, port_a: int, b: bytes, port_b: int, protocol: int) -> Key:
    """Return what flows of NFStream and ours are joined by; addresses have 16 bytes."""
    if protocol in (ICMP, ICMP6):
        port_a = port_b = 0
    one, other = (a, port_a), (b, port_b)
    return (*min(one, other), *max(one, other), protocol)


def ndpi_version() -> str:
    """Return the version of nDPI in the NFStream that is installed."""
    from nfstream.engine.engine import ffi, lib

    return str(ffi.string(lib.engine_lib_ndpi_version()).decode())


class NdpiReader:
    """Reads captures through NFStream in a process of its own, which ``close`` ends.

    Raises:
        ModuleNotFoundError: NFStream is not installed.
    """

    def __init__(self, idle_s: float, active_s: float, dissections: int, stop: Callable[[], bool]) -> None:
        """Start nothing yet.

        Args:
            idle_s: idle timeout; NFStream takes whole seconds, at least one.
            active_s: active timeout, the same.
            dissections: packets of a flow that nDPI looks at.
            stop: asked again and again; True ends the reading.
        """
        if importlib.util.find_spec("nfstream") is None:
            raise ModuleNotFoundError("No module named 'nfstream'", name="nfstream")
        self._options = {
            # Our flow records do not look into tunnels either.
            "decode_tunnels": False,
            "idle_timeout": max(1, round(idle_s)),
            "active_timeout": max(1, round(active_s)),
            "n_dissections": dissections,
            "n_meters": 1,
        }
        self._stop = stop
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection
        self._errors: IO[bytes]

    def flows(self, path: str) -> Iterator[NdpiFlow]:
        """Yield the flows of a capture, as nDPI labels them, in the order in which they end.

        Args:
            path: pcap or pcapng, also .gz and .zst.

        Raises:
            InputError: NFStream cannot read the capture.
        """
        with plain(path) as file:
            try:
                if self._child is None:
                    self._start()
                self._pipe.send({**self._options, "source": str(file)})
                while (rows := self._receive()) is not END:
                    if isinstance(rows, str):
                        raise InputError(f"{path}: NFStream: {rows}")
                    yield from map(_flow, rows)
            except (EOFError, OSError):
                told = self._last_words()
                self.close()
                raise InputError(f"{path}: NFStream: {told}") from None
            except BaseException:
                # It may be in the middle of the capture.
                self.close()
                raise

    def _receive(self) -> list[Row] | str | None:
        while not self._pipe.poll(_POLL_S):
            if self._stop():
                self.close()
                return END
        if self._stop():
            self.close()
            return END
        got: list[Row] | str | None = self._pipe.recv()
        return got

    def _last_words(self) -> str:
        code = self._child.wait() if self._child else 0
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return ": ".join([f"its process ended with code {code}", *lines[-1:]])

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._pipe, theirs = Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "flowgauge.ndpi_child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                # NumPy's threads would be forked along.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def close(self) -> None:
        """End the process and its meter; the next capture starts another."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._pipe.close()
            self._errors.close()
            self._child = None


def _flow(row: Row) -> NdpiFlow:
    source, source_port, destination, destination_port, protocol, first_ms, last_ms, label, guessed = row
    a, b = _address(source)[0], _address(destination)[0]
    key = join_key(a, source_port, b, destination_port, protocol)
    return NdpiFlow(key, first_ms, last_ms, label, guessed)


@contextmanager
def plain(path: str) -> Iterator[Path]:
    """Give the path of the capture without compression: its own, or a temporary file's.

    Of a capture that is cut off in the middle it is the part before.
    """
    with Path(path).open("rb", buffering=0) as file:
        head = file.read(MAGIC_OCTETS)
        if not is_compressed(head):
            yield Path(path)
            return
        with tempfile.TemporaryDirectory(prefix="flowgauge-") as folder:
            copy = Path(folder) / "capture"
            with copy.open("wb") as target:
                _expand(open_source(file, head), target)
            yield copy


def _expand(source: Expander, target: IO[bytes]) -> None:
    room = memoryview(bytearray(_CHUNK_OCTETS))
    try:
        while octets := source.read_into(room):
            target.write(room[:octets])
    except CorruptStream:
        # The reader of our flow records has met the same damage, and warned of it.
        return
