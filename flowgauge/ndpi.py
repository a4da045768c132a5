"""What nDPI says about the flows of a capture, through NFStream (an extra)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from producers.sources.window import MAGIC_OCTETS, CorruptStream, Expander, is_compressed, open_source
from schemas.community_id import address_bytes
from schemas.errors import InputError
from schemas.flow_key import ICMP, ICMP6

_address = lru_cache(maxsize=1 << 14)(address_bytes)

UNKNOWN = "Unknown"
_CHUNK_OCTETS = 1 << 20

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


def read_ndpi(
    path: str, idle_s: float, active_s: float, dissections: int, stop: Callable[[], bool]
) -> Iterator[NdpiFlow]:
    """Yield the flows of a capture, as nDPI labels them, in the order in which they end.

    Args:
        path: pcap or pcapng, also .gz and .zst.
        idle_s: idle timeout; NFStream takes whole seconds, at least one.
        active_s: active timeout, the same.
        dissections: packets of a flow that nDPI looks at.
        stop: asked after each flow; True ends it.

    Raises:
        InputError: NFStream cannot read the capture.
        ModuleNotFoundError: NFStream is not installed.
    """
    from nfstream import NFStreamer

    # NFStream pins the process to some cores; what comes after it should have all of them.
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with plain(path) as file:
        flows: Any = NFStreamer(
            source=str(file),
            # Our flow records do not look into tunnels either.
            decode_tunnels=False,
            idle_timeout=max(1, round(idle_s)),
            active_timeout=max(1, round(active_s)),
            n_dissections=dissections,
            n_meters=1,
        )
        try:
            for flow in flows:
                yield _flow(flow)
                if stop():
                    return
        except ValueError as error:
            raise InputError(f"{path}: NFStream: {' '.join(str(error).split())}") from None
        finally:
            if cores is not None:
                os.sched_setaffinity(0, cores)


def _flow(flow: Any) -> NdpiFlow:
    a, b = _address(flow.src_ip)[0], _address(flow.dst_ip)[0]
    return NdpiFlow(
        key=join_key(a, flow.src_port, b, flow.dst_port, flow.protocol),
        first_ms=flow.bidirectional_first_seen_ms,
        last_ms=flow.bidirectional_last_seen_ms,
        label=flow.application_name,
        guessed=bool(flow.application_is_guessed),
    )


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
