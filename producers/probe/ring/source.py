"""An interface as a source of the probe: its ring decoded, its ups and downs survived, its drops counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from producers.columns import allocate
from producers.decoder.kernel import allocate_frames, writable
from producers.decoder.link import ETHERNET
from producers.decoder.reasons import counters_of
from producers.decoder.state import allocate_state
from producers.names.spots import Spots
from producers.names.told import NOTHING_TOLD
from producers.probe.config import ProbeSettings
from producers.probe.log import LOGGER
from producers.probe.ring.direction import direct_by_prefix, macs_of, prefixes_of
from producers.probe.ring.filters import Filter, compile_filter
from producers.probe.ring.interface import Interface, State, look_at, start_hardware_clock
from producers.probe.ring.kernel import (
    DONE,
    HARDWARE,
    MERGED,
    RING_COUNTS,
    SEEN,
    TAGGED,
    TWICE,
    RingShape,
    decode_ring,
    give_back,
)
from producers.probe.ring.sockets import CaptureError, PacketSocket, RingSize
from producers.probe.source import Block, Reading

ALL_OCTETS = 262_144
"""More than any frame has."""

_SPARES = 4
"""How often an interface whose packets are shared may be replaced by another of its name."""

log = logging.getLogger(LOGGER)


@dataclass(frozen=True)
class RingOptions:
    """How an interface is captured from."""

    size: RingSize
    filter: str = ""
    snap_octets: int = ALL_OCTETS
    promiscuous: bool = True
    outgoing: bool = True
    hardware_time: bool = False
    group: int | None = None
    """Number of the group of sockets that share the interface's packets; None: this one takes all."""
    fanout: str = "hash"
    macs: tuple[str, ...] = ()
    """Addresses that tell the direction; without them and prefixes, packets that this machine sends are egress."""
    prefixes: tuple[str, ...] = ()


class RingSource:
    """Captures from one interface; opening it takes CAP_NET_RAW, nothing after that takes any right.

    Args:
        interface: its name.
        options: how.
        look: tells how the interface stands.

    Raises:
        CaptureError: no such interface, no right, no ring.
        SettingsError: the filter does not compile, or sharing by such a rule is not possible.
    """

    def __init__(
        self, interface: str, options: RingOptions, look: Callable[[str], Interface] = look_at
    ) -> None:
        self.name, self.at_end = interface, False
        self._options, self._look = options, look
        self._now = look(interface)
        if self._now.state == State.GONE:
            raise CaptureError(f"interface {interface}: there is none of this name")
        self._filter: Filter = compile_filter(options.filter, self._now.link_type, options.snap_octets)
        self._events: Counter[str] = Counter()
        self._dropped = 0
        self._counts = np.zeros(RING_COUNTS, np.int64)
        self._socket = PacketSocket()
        self._spares = [PacketSocket() for _ in range(0 if options.group is None else _SPARES)]
        try:
            self._set_up()
        except BaseException:
            self._close_all()
            raise
        self._frames = allocate_frames()
        self._macs = macs_of(options.macs)
        self._prefixes = prefixes_of(options.prefixes)
        self._state = allocate_state()
        self._spots: Spots | None = None
        """Where packets that may tell a name are noted."""

    def _set_up(self) -> None:
        """Give the socket its ring and bind it to the interface as it stands now."""
        options, packets = self._options, self._socket
        octets = packets.make_ring(options.size)
        if octets < options.size.octets:
            log.warning(
                "interface %s: no memory for a ring of %d MiB, it has %d MiB (probe.ring_mbytes)",
                self.name, options.size.octets >> 20, octets >> 20,
            )  # fmt: skip
        if options.hardware_time:
            if reason := start_hardware_clock(self.name):
                log.warning("interface %s: cannot switch on hardware times: %s", self.name, reason)
            packets.use_hardware_time()
        if not options.outgoing and not packets.ignore_outgoing():
            raise CaptureError("probe.outgoing = false needs Linux 4.20 or later")
        self._bind()
        if options.group is not None:
            # The number goes with the interface too, so that those who share it meet again on another.
            packets.join(options.group + (self._now.index << 6), options.fanout)
        self.ring_octets = octets
        self._take_ring()

    def _take_ring(self) -> None:
        """Walk the socket's ring from where the kernel is on."""
        self._raw, self._words = self._socket.arrays()
        self._place = self._socket.first_place()
        self._shape_ring()

    def _shape_ring(self) -> None:
        now, packets = self._now, self._socket
        self._shape = RingShape(
            packets.block_octets,
            packets.blocks,
            now.link_type,
            now.loopback,
            now.most_octets,
            bool(self._options.macs) and now.link_type == ETHERNET,
        )

    def _bind(self) -> None:
        now = self._now
        self._socket.bind(self.name, self._filter)
        if self._options.promiscuous and not now.loopback:
            self._socket.be_promiscuous(now.index)

    def start(self, reading: Reading) -> None:
        """Take in how to read; compiles or loads the kernels."""
        self._reading = reading
        self._columns = allocate(reading.block_packets, reading.extra)
        self._spots = None if reading.names is None else reading.names.spots(reading.block_packets)
        # Without room for a packet the ring is left alone.
        self._target = writable(allocate(0, reading.extra))
        self._decode()
        give_back(self._words, self._shape, self._place)
        if reading.names is not None:
            reading.names.read(self._raw, self._target)
        if reading.privacy is not None:
            reading.privacy.rows(self._target, 0, 0)
        if reading.tap is not None:
            reading.tap.take(self._raw, self._target, 0, 0)
        self._target = writable(self._columns)

    def _decode(self) -> int:
        """Decode what is at hand; return how many packets that were."""
        tap = self._reading.tap
        if tap is not None:
            tap.begin(self._reading.block_packets)
        spans = None if tap is None else tap.spans
        rows = decode_ring(
            self._raw,
            self._shape,
            self._place,
            self._counts,
            self._frames,
            self._target,
            0,
            self._state,
            spans,
            self._macs,
            self._spots,
        )
        if self._reading.extra.direction and len(self._prefixes.version):
            direct_by_prefix(self._target, rows, self._prefixes)
        return rows

    def files(self) -> Sequence[int]:
        """Return the socket."""
        return (self._socket.fileno(),)

    def read(self) -> Block | None:
        """Return the packets of the blocks that the kernel has handed over, at most ``block_packets``."""
        reading, rows = self._reading, self._decode()
        told = NOTHING_TOLD
        if reading.names is not None and self._spots is not None:
            if self._spots.noted[0]:
                reading.names.read(self._raw, self._target)
            told = reading.names.take()
        if reading.privacy is not None:
            reading.privacy.rows(self._target, 0, rows)
        if reading.tap is not None and rows:
            reading.tap.take(self._raw, self._target, 0, rows)
        if self._place[DONE]:
            give_back(self._words, self._shape, self._place)
        return Block(self.name, self._columns.head(rows), told) if rows else None

    def tick(self) -> None:
        """Count what the kernel dropped, and see whether the interface came, went or is another now."""
        found = self._socket.statistics()
        self._dropped += found.dropped
        self._events["ring_full"] += found.freezes
        if found.dropped:
            log.warning(
                "interface %s: the kernel dropped %d packets: the ring was full (probe.ring_mbytes, probe.processes)",
                self.name, found.dropped,
            )  # fmt: skip
        self._socket.error()  # it is cleared by being asked for, and then the socket is not readable for it
        before, now = self._now, self._look(self.name)
        is_other = before.state != now.state or (now.state != State.GONE and before.index != now.index)
        if is_other:
            self._turned(before, now)

    def _turned(self, before: Interface, now: Interface) -> None:
        """Take in that the interface stands differently, or is another one of the same name."""
        if now.state != State.GONE and now.index != before.index:
            self._now = now
            self._follow()
            self._events["interface_returned"] += 1
            log.warning("interface %s: there is a new one of this name, capturing goes on", self.name)
            return
        self._now = now if now.state != State.GONE else replace(before, state=State.GONE)
        self._events[f"interface_{now.state.name.lower()}"] += 1
        log.warning("interface %s is %s", self.name, now.state.value)

    def _follow(self) -> None:
        """Receive from the interface that has the name now."""
        if self._options.group is None:
            self._bind()
            self._shape_ring()
            return
        # A socket that shares with others is never bound again; to open one would take a right.
        while self._spares:
            self._socket.close()
            self._socket = self._spares.pop()
            if not self._socket.adopt_ring(self._options.size):
                self._set_up()
                return
            # A process that died has used this one already: its ring is taken over.
            if self._socket.index() == self._now.index:
                self._take_ring()
                return
        raise CaptureError(
            f"interface {self.name}: it was replaced {_SPARES} times; the probe has to start anew"
        )

    def _close_all(self) -> None:
        for one in (self._socket, *self._spares):
            one.close()

    def reload(self, settings: ProbeSettings) -> None:
        """Have the filter of new settings decide from the next packet on; raises SettingsError."""
        # Names are found only where packets are copied whole.
        snap_octets = settings.snap_octets or (ALL_OCTETS if settings.names else self._options.snap_octets)
        if (settings.filter, snap_octets) != (self._filter.text, self._filter.snap_octets):
            filter_ = compile_filter(settings.filter, self._now.link_type, snap_octets)
            self._socket.set_filter(filter_)
            self._filter = filter_
            log.info("interface %s: filter %r", self.name, settings.filter)

    def take_over(self) -> None:
        """Go on where another process stopped that read this ring."""
        self._place = self._socket.first_place()

    def stop(self) -> None:
        """Have the kernel drop, uncounted, what comes from now on."""
        self._socket.pause()

    def frames(self) -> Counter[str]:
        """Return the frames seen, those that the kernel dropped among them, and those skipped, by reason."""
        counted = counters_of(self._state.counts)
        return Counter(counted.skipped) + Counter(
            read=counted.read + self._dropped, kernel_dropped=self._dropped
        )

    def events(self) -> Counter[str]:
        """Return counts of the ring and of the interface's ups and downs."""
        counts = self._counts
        return self._events + Counter(
            frames_seen=int(counts[SEEN]),
            loopback_copies=int(counts[TWICE]),
            vlan_tagged=int(counts[TAGGED]),
            offloaded=int(counts[MERGED]),
            hardware_times=int(counts[HARDWARE]),
        )

    def gauges(self) -> dict[str, float]:
        """Return whether the interface is up."""
        return {f"up_{self.name}": float(self._now.state == State.UP)}

    def close(self) -> None:
        """Close the socket and let go of the ring."""
        del self._raw, self._words
        self._close_all()
