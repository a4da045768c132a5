"""The probes of a replay: which captures each one replays, and those captures as one run of packets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from producers.columns import PacketColumns
from producers.names.finder import NameFinder
from producers.privacy.privacy import Privacy
from producers.sources.capture import STDIN, Capture, open_capture
from producers.sources.reader import Tap
from producers.summary import ProbeSummary
from schemas.errors import InputError, SettingsError
from schemas.packets import LATEST_NS, NO_EXTRA, Extra

DEFAULT_PROBE = "replay"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ProbeSpec:
    """A probe's name, and the captures that stand for what it saw, in that order."""

    name: str
    captures: tuple[str, ...]


def parse_probes(captures: Sequence[str], names: Sequence[str] = ()) -> tuple[ProbeSpec, ...]:
    """Return the probes of a replay.

    A capture may say its probe itself, as ``name=path``. Of the others, one name in ``names`` takes all; as
    many names as captures go with them one by one; without a name they belong to the probe ``replay``.

    Raises:
        SettingsError: no capture, a name that cannot be one, or names that do not fit the captures.
    """
    if not captures:
        raise SettingsError("replay: no capture given")
    bare = [text for text in captures if _named(text) is None]
    given = list(names) or [DEFAULT_PROBE]
    if len(given) == 1:
        given *= len(bare)
    if len(given) != len(bare):
        raise SettingsError(
            f"--probe: {len(given)} names for {len(bare)} captures; give one, or one for each"
        )
    by_probe: dict[str, list[str]] = {}
    following = iter(given)
    for text in captures:
        name, path = _named(text) or (next(following), text)
        if not _NAME.fullmatch(name):
            raise SettingsError(f"--probe {name!r}: letters, digits, dot, dash and underscore, at most 100")
        by_probe.setdefault(name, []).append(path)
    if captures.count(STDIN) + sum(text.endswith(f"={STDIN}") for text in captures) > 1:
        raise SettingsError("standard input can be replayed only once")
    return tuple(ProbeSpec(name, tuple(paths)) for name, paths in by_probe.items())


def _named(text: str) -> tuple[str, str] | None:
    """Return (name, path) of ``name=path``; None for a path, also one with ``=`` in it that exists."""
    name, equals, path = text.partition("=")
    if not equals or not path or not _NAME.fullmatch(name) or Path(text).exists():
        return None
    return name, path


class CaptureChain:
    """Captures read one after another; what was read is counted into the probe's summary as each one ends."""

    def __init__(
        self,
        spec: ProbeSpec,
        summary: ProbeSummary,
        warnings: list[str],
        names: NameFinder | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self._spec = spec
        self._privacy = privacy
        self._names = names
        self._summary = summary
        self._warnings = warnings
        self._open: Capture | None = None
        self._bytes_done = 0

    @property
    def bytes_read(self) -> int:
        """Bytes of the captures read so far, as stored."""
        return self._bytes_done + (self._open.bytes_read if self._open else 0)

    def uncounted(self) -> Counter[str]:
        """Return the frames of the open capture, which the summary does not count yet: ``read``, and by reason."""
        if self._open is None:
            return Counter()
        counters = self._open.counters
        return Counter(counters.skipped) + Counter(read=counters.read)

    def blocks(
        self, max_packets: int, extra: Extra = NO_EXTRA, tap: Tap | None = None
    ) -> Iterator[tuple[str, PacketColumns]]:
        """Yield (name of the capture, packets); the columns hold until the next step. A ``tap`` is shown them first.

        Raises:
            InputError: a capture cannot be read.
        """
        for path in self._spec.captures:
            point = "standard input" if path == STDIN else Path(path).name
            with open_capture(path, names=self._names, privacy=self._privacy) as capture:
                self._open = capture
                try:
                    for columns in capture.blocks(max_packets, extra, tap):
                        yield point, columns
                finally:
                    self._count(capture)

    def _count(self, capture: Capture) -> None:
        counters, summary = capture.counters, self._summary
        summary.packets_read += counters.read
        summary.packets_accepted += counters.accepted
        for reason, frames in counters.skipped.items():
            summary.packets_skipped[reason] = summary.packets_skipped.get(reason, 0) + frames
        self._warnings += [text for text in capture.warnings if text not in self._warnings]
        self._bytes_done += capture.bytes_read
        self._open = None


def total_bytes(probes: Sequence[ProbeSpec]) -> int | None:
    """Return the size of all captures as stored, or None where one is no plain file.

    Raises:
        InputError: a capture is missing, so that a long replay does not find that out half-way.
    """
    total = 0
    for path in (path for probe in probes for path in probe.captures):
        if path == STDIN:
            return None
        if not Path(path).exists():
            raise InputError(f"{path}: no such file")
        if not Path(path).is_file():
            return None
        total += Path(path).stat().st_size
    return total


def moved(columns: PacketColumns, offset_ns: int) -> tuple[PacketColumns, int]:
    """Return the packets with their times moved, and how many had to be held at the limits of time."""
    times = columns.time_ns
    low, high = max(0, -offset_ns), min(LATEST_NS, LATEST_NS - offset_ns)
    if not len(times) or (int(times.min()) >= low and int(times.max()) <= high):
        return columns._replace(time_ns=times + np.int64(offset_ns)), 0
    inside = times.clip(low, high)
    clamped = int(np.count_nonzero(inside != times))
    return columns._replace(time_ns=inside + np.int64(offset_ns)), clamped
