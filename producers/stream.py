"""One probe of a replay: its captures through the batcher into numbered batches, and its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.config import ReplaySettings
from producers.first_packets import FirstPackets, Selection
from producers.labels import LabelTable
from producers.names.finder import NameFinder
from producers.names.told import NOTHING_TOLD
from producers.pacing import Timeline
from producers.packet_stream import Emit, Origin, PacketStream
from producers.payloads.stream import PayloadStream
from producers.privacy.privacy import Privacy
from producers.probes import CaptureChain, ProbeSpec, moved
from producers.sequence import Sequencer
from producers.summary import ProbeSummary
from schemas.packets import NO_EXTRA, Extra

EmitLabel = Callable[[LabelTable, int, int, str, int], None]
"""Called with the table, the row, the flow id, the probe and the offset in ns."""


class ProbeStream:
    """Replays one probe, loop after loop.

    In each loop: ``start`` tells the time of the first packet, ``begin`` says by how much times are moved
    and, for a paced replay, when packets are due; ``advance`` until ``head_ns`` is None, then ``end``.
    """

    def __init__(
        self,
        spec: ProbeSpec,
        partitions: int,
        epoch: int,
        settings: ReplaySettings,
        labels: LabelTable | None,
        emit: Emit,
        emit_label: EmitLabel,
        extra: Extra = NO_EXTRA,
        payloads: PayloadStream | None = None,
        privacy: Privacy | None = None,
        selection: Selection | None = None,
    ) -> None:
        self.spec = spec
        self.summary = ProbeSummary(
            list(spec.captures),
            packets_by_partition=[0] * partitions,
            batches_by_partition=[0] * partitions,
        )
        self.warnings: list[str] = []
        self.batcher = Batcher(partitions, settings.batch_packets, extra, names=settings.names)
        self._names = NameFinder(privacy) if settings.names else None
        self.payloads = payloads
        self.first = None if selection is None else FirstPackets(selection, partitions, extra)
        self._privacy = privacy
        self._told = NOTHING_TOLD
        self._stream = PacketStream(
            Origin(spec.name, replayed=True),
            self.batcher,
            Sequencer(partitions, epoch),
            self.summary,
            emit,
            payloads,
            self.first,
        )
        self._settings = settings
        self._labels = labels
        self._emit_label = emit_label
        self._chain: CaptureChain | None = None
        self._blocks: Iterator[tuple[str, PacketColumns]] = iter(())
        self._columns: PacketColumns | None = None
        self._due: NDArray[np.int64] | None = None
        self._row = 0
        self._timeline: Timeline | None = None
        self._offset_ns = 0
        self.earliest_ns = self.latest_ns = 0
        self._next_label = 0
        self._label_ids: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._label_due_ns: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    @property
    def bytes_read(self) -> int:
        """Bytes of the captures read in this loop, as stored."""
        return self._chain.bytes_read if self._chain else 0

    def frames(self) -> Counter[str]:
        """Return the frames read so far (``read``), and those skipped by reason."""
        counted = Counter(self.summary.packets_skipped) + Counter(read=self.summary.packets_read)
        return counted + self._chain.uncounted() if self._chain else counted

    def names_found(self) -> Counter[str]:
        """Return how many names were found so far, by where; nothing where nobody looks for them."""
        return Counter() if self._names is None else self._names.counts.copy()

    @property
    def head_ns(self) -> int | None:
        """Event time of the next packet; None at the end of the loop."""
        return None if self._columns is None else int(self._columns.time_ns[self._row])

    @property
    def waiting_since_ns(self) -> int:
        """When the first packet that waits was due; far in the future where none does."""
        return self._stream.waiting_since_ns

    @property
    def head_due_ns(self) -> int:
        """When the next packet is due on the timeline; 0 where there is none."""
        return 0 if self._due is None else int(self._due[self._row])

    def start(self) -> int | None:
        """Open the captures from the first on; return the time of the first packet, None if there is none."""
        self._chain = CaptureChain(self.spec, self.summary, self.warnings, self._names, self._privacy)
        self._blocks = self._chain.blocks(
            self._settings.block_packets,
            self.batcher.extra,
            None if self.payloads is None else self.payloads.sampler,
        )
        point, self._columns = self._next_block()
        self._stream.at(point)
        self._row = 0
        return self.head_ns

    def begin(self, offset_ns: int, start_ns: int, timeline: Timeline | None) -> None:
        """Say by how much times are moved, when the loop starts, and when packets are due (None: at once)."""
        self._offset_ns, self._timeline = offset_ns, timeline
        self.earliest_ns = self.latest_ns = start_ns
        self._next_label = 0
        labels = self._labels
        if labels is not None:
            self._label_ids = labels.flow_ids(self.spec.name, offset_ns)
            self._label_due_ns = labels.end_ns + (offset_ns + int(self._settings.label_delay_s * 1e9))
        if self._columns is not None:
            self._place(self._columns)

    def _place(self, columns: PacketColumns) -> None:
        columns, clamped = moved(columns, self._offset_ns)
        self.summary.times_clamped += clamped
        self.earliest_ns = min(self.earliest_ns, int(columns.time_ns.min()))
        self._columns, self._row = columns, 0
        self._due = self._timeline.due_ns(columns.time_ns) if self._timeline else None

    def _next_block(self) -> tuple[str, PacketColumns | None]:
        point, columns = next(self._blocks, ("", None))
        if self._names is not None:
            self._told = self._names.take()
        return point, columns

    def _load(self) -> None:
        point, columns = self._next_block()
        if columns is None:
            self._columns = None
            return
        self._stream.at(point)
        self._place(columns)

    def advance(self, until_ns: int | None) -> None:
        """Take in the packets that are due on the timeline; without one, the rest of the block."""
        while self._columns is not None:
            columns, start, stop = self._columns, self._row, self._columns.packets
            since = 0
            if until_ns is not None and self._due is not None:
                stop = int(np.searchsorted(self._due, until_ns, side="right"))
                since = int(self._due[start])
            if stop > start:
                self._row = stop
                self._stream.take(columns, (start, stop), since, self._told, self._offset_ns)
                self.latest_ns = max(self.latest_ns, int(columns.time_ns[start:stop].max()))
                self._send_labels(self.latest_ns)
            if stop < columns.packets:
                return
            self._load()
            if until_ns is None:
                return

    def flush(self, before_ns: int | None = None) -> None:
        """Send what waits: all, or the partitions whose first packet was due at ``before_ns`` or earlier."""
        self._stream.flush(before_ns)

    def end(self, *, finished: bool) -> None:
        """Send what waits, mark the end on every partition and, if the loop is through, send its labels."""
        self.close()
        self._stream.end()
        if self._names is not None:
            self._names.forget()
        if finished:
            self._send_labels(None)

    def close(self) -> None:
        """Close the captures; what they read is counted."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
        self._columns = None

    def _send_labels(self, passed_ns: int | None) -> None:
        """Send the labels whose time has come; None: all that are left."""
        labels = self._labels
        if labels is None or self._next_label == labels.rows:
            return
        stop = (
            labels.rows
            if passed_ns is None
            else int(np.searchsorted(self._label_due_ns, passed_ns, side="right"))
        )
        for row in range(self._next_label, stop):
            self._emit_label(labels, row, int(self._label_ids[row]), self.spec.name, self._offset_ns)
            self.summary.labels += 1
        self._next_label = max(self._next_label, stop)
