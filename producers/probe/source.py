"""What a live source is to the probe: decoded packets as they come, or nothing yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from producers.columns import PacketColumns
from producers.names.finder import NameFinder
from producers.names.told import Told
from producers.privacy.privacy import Privacy
from producers.probe.config import ProbeSettings
from producers.sources.reader import Tap
from schemas.packets import NO_EXTRA, Extra

NAP_S = 0.1
"""Longest sleep of the probe's loop, so that a stop, telemetry and house-keeping do not wait for packets."""


class Block(NamedTuple):
    """Packets decoded together."""

    point: str
    """Where they were seen: the observation point of their batches."""
    columns: PacketColumns
    """Good until the source is read again."""
    told: Told
    """The names that they told, by row."""
    first: int = 0
    """Row of the first packet that counts; those before were sent in a former life."""


class Reading(NamedTuple):
    """How a source shall read; the probe says it once, before the first packet."""

    block_packets: int
    """Most packets of a block."""
    extra: Extra = NO_EXTRA
    """Columns to fill beyond the usual ones."""
    names: NameFinder | None = None
    """Who reads the packets that may tell a name, while their octets are in memory."""
    tap: Tap | None = None
    """Who is shown each packet with its payload."""
    privacy: Privacy | None = None
    """What hides addresses, once names were looked for and before anybody else sees the packets."""


class LiveSource(Protocol):
    """Where packets come from while they happen; opened by a ``SourceFactory``.

    The probe's loop calls ``read`` until it gives None, and then sleeps until one of the ``files`` is readable,
    for ``NAP_S`` at most. Nothing here waits.
    """

    name: str
    """What messages and telemetry call it: the interface, host:port, the folder."""
    at_end: bool
    """Whether nothing can come any more; the probe ends when all its sources are there."""

    def start(self, reading: Reading) -> None:
        """Take in how to read, and compile or load the kernels that it takes; may be called again between reads."""

    def reload(self, settings: ProbeSettings) -> None:
        """Take in settings that were read anew, such as the filter; raises SettingsError where one cannot be used."""

    def files(self) -> Sequence[int]:
        """Return the file descriptors that become readable when there is something to read; may be empty."""

    def read(self) -> Block | None:
        """Return the packets at hand, at most ``block_packets`` of them, or None where there are none yet.

        Raises:
            FlowgaugeError: the source cannot go on. What it can get over it counts, logs and goes on.
        """

    def tick(self) -> None:
        """Look after the source: called about ten times a second, whether packets come or not."""

    def stop(self) -> None:
        """Take in no more; what has come can still be read."""

    def frames(self) -> Counter[str]:
        """Return, since the start, the frames seen (``read``) and by reason those that gave no packet.

        Frames that the source could not take in (``kernel_dropped``) are among those seen.
        """

    def events(self) -> Counter[str]:
        """Return other counts since the start, by name."""

    def gauges(self) -> dict[str, float]:
        """Return values as they stand, by name."""

    def close(self) -> None:
        """Let go of everything."""


@runtime_checkable
class Remembers(Protocol):
    """A source that remembers over a restart what was read."""

    def settled(self) -> None:
        """Take in that the bus has everything that was read so far."""


SourceFactory = Callable[[], LiveSource]
"""Opens a source while the process has all its rights; what fails is a FlowgaugeError."""
