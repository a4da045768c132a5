"""The input of all stages: captures expanded, put one behind the other and repeated with event time going on.

Every stage and every peer reads the same plain pcap files, one per link type, out of the page cache: expanding
gzip or zstd is no part of what is measured.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgauge.bench.frames import FrameSink, Records, read_frames
from producers.sources.capture import STDIN
from schemas.errors import InputError

TARGET_PACKETS = 1_000_000
MAX_OCTETS = 512 << 20
GAP_S = 121
"""Silence between two captures: longer than our idle timeout (60 s) and NFStream's (120 s), so that each
repetition is made of flows of its own."""
_NS = 1_000_000_000


@dataclass(frozen=True)
class Corpus:
    """Plain pcap files and what they hold."""

    captures: tuple[str, ...]
    paths: tuple[Path, ...]
    frames: int
    octets: int
    """Octets of all files."""
    passes: int
    span_s: int
    """Event time from the begin of one pass to that of the next."""
    cut: bool
    """Whether the captures are larger than what is used of them."""

    def describe(self) -> dict[str, Any]:
        """Return the corpus as ``--json`` tells it, without packets and flows, which decoding tells."""
        return {
            "captures": list(self.captures),
            "files": len(self.captures),
            "frames": self.frames,
            "bytes": self.octets,
            "passes": self.passes,
            "cut": self.cut,
        }


@contextmanager
def make_corpus(
    captures: Sequence[str],
    target_packets: int = TARGET_PACKETS,
    max_octets: int = MAX_OCTETS,
    gap_s: int = GAP_S,
) -> Iterator[Corpus]:
    """Write the corpus into a temporary directory that goes away with the context.

    Args:
        captures: files, pcap or pcapng, compressed or not.
        target_packets: the captures are repeated until there are so many frames.
        max_octets: bound on the files; of longer captures only the beginning is used.
        gap_s: silence between two captures, and between a repetition and the next, in seconds of event time.

    Raises:
        InputError: a capture cannot be read, or none holds a frame.
    """
    sink = FrameSink(max_octets)
    end_s = 0
    for path in captures:
        if path == STDIN:
            raise InputError("standard input cannot be measured: it cannot be read twice")
        sink.offset_s = max(0, end_s + gap_s - _first_s(path)) if end_s else 0
        read_frames(path, sink)
        end_s = sink.last_ns // _NS + 1
    if not sink.frames:
        raise InputError(f"{', '.join(captures)}: no frame to measure with")
    passes = max(1, min(-(-target_packets // sink.frames), max_octets // sink.octets))
    with tempfile.TemporaryDirectory(prefix="flowgauge-bench-") as directory:
        span_s = end_s - sink.first_ns // _NS + gap_s
        paths = []
        for number, (link_type, records) in enumerate(sink.by_link_type.items()):
            paths.append(Path(directory) / f"link-type-{link_type}.pcap")
            _write(paths[-1], link_type, records, passes, span_s, number * passes * span_s)
        yield Corpus(
            tuple(captures),
            tuple(paths),
            sink.frames * passes,
            sink.octets * passes,
            passes,
            span_s,
            sink.full,
        )


def _first_s(path: str) -> int:
    """Return the second in which a capture begins."""
    probe = FrameSink(limit_octets=1)
    read_frames(path, probe)
    return probe.first_ns // _NS


def _write(path: Path, link_type: int, records: Records, passes: int, span_s: int, offset_s: int) -> None:
    raw, starts = np.concatenate(records.raw), np.concatenate(records.starts)
    seconds = _seconds(raw, starts)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, link_type))
        for number in range(passes):
            moved = (seconds + offset_s + number * span_s).astype("<u4").view(np.uint8).reshape(-1, 4)
            for byte in range(4):
                raw[starts + byte] = moved[:, byte]
            file.write(raw.data)


def _seconds(raw: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    words = np.stack([raw[starts + byte] for byte in range(4)], axis=1)
    return np.ascontiguousarray(words).view("<u4").reshape(-1).astype(np.int64)
