"""What a replay and a live probe do alike with decoded packets: batch them, number the batches, count them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.first_packets import FirstPackets
from producers.names.told import NOTHING_TOLD, Told
from producers.payloads.stream import PayloadStream, waiting_since_ns
from producers.sequence import Sequencer
from producers.summary import ProbeSummary
from schemas.packets import PacketBatch, empty_columns

Emit = Callable[[PacketBatch, int], None]
"""Called with a batch and the time, by the caller's clock, at which its first packet was added."""


@dataclass(frozen=True)
class Origin:
    """What all batches of a stream say about where they come from."""

    probe: str
    replayed: bool


class PacketStream:
    """Turns a probe's decoded packets into numbered batches, and the chosen payloads into theirs.

    Args:
        origin: what the batches say about themselves.
        batcher: groups the packets by partition.
        sequencer: numbers the batches; streams of one probe may share one.
        summary: what was sent is counted there.
        emit: called with each batch.
        payloads: the payloads' own stream, whose sampler was shown the packets; None: none are sent.
        first: chooses the packets that are sent; None: all are. Payloads are chosen among all packets.
    """

    def __init__(
        self,
        origin: Origin,
        batcher: Batcher,
        sequencer: Sequencer,
        summary: ProbeSummary,
        emit: Emit,
        payloads: PayloadStream | None = None,
        first: FirstPackets | None = None,
    ) -> None:
        self.batcher, self.payloads, self.first = batcher, payloads, first
        self._origin, self._sequencer, self._summary, self._emit = origin, sequencer, summary, emit
        self._point = ""

    @property
    def waiting_since_ns(self) -> int:
        """When the first packet that waits was added; far in the future where none does."""
        return waiting_since_ns(self.payloads, int(self.batcher.since_ns.min()))

    def at(self, point: str) -> None:
        """Say where the packets that follow were observed; what waits is sent first, if that was another place."""
        if point != self._point:
            self.flush()
            self._point = point

    def batch_with(self, batcher: Batcher) -> None:
        """Send what waits, and go on with another batcher."""
        self.flush()
        self.batcher = batcher

    def take(
        self,
        block: PacketColumns,
        rows: tuple[int, int],
        now_ns: int,
        told: Told = NOTHING_TOLD,
        offset_ns: int = 0,
    ) -> None:
        """Take in some rows of the block decoded last, and send the batches that are full.

        Args:
            block: the whole block, its times moved already.
            rows: first row, and the row after the last.
            now_ns: the time by the caller's clock.
            told: the names that the whole block told.
            offset_ns: by how much the times were moved.
        """
        part, first_row = block.part(*rows), rows[0]
        if self.first is not None:
            part, told = self.first.take(block, rows, told)
            first_row = 0
            self._summary.packets_left_out += rows[1] - rows[0] - part.packets
        for partition, views in self.batcher.add(part, now_ns, told, first_row):
            self._send(partition, views)
        if self.payloads is not None:
            self.payloads.add(self._point, block, rows, offset_ns, now_ns)

    def flush(self, before_ns: int | None = None) -> None:
        """Send what waits: all, or the partitions whose first packet was added at ``before_ns`` or earlier."""
        overdue = range(self.batcher.partitions) if before_ns is None else self.batcher.overdue(before_ns)
        for p in overdue:
            for partition, views in self.batcher.flush(p):
                self._send(partition, views)
        if self.payloads is not None:
            self.payloads.flush(before_ns)

    def end(self) -> None:
        """Send what waits and mark the end on every partition; what follows is another epoch."""
        self.flush()
        for partition in range(self.batcher.partitions):
            self._emit(self._batch(partition, empty_columns(), end_of_stream=True), 0)
        self._sequencer.restart()
        if self.payloads is not None:
            self.payloads.end()
        if self.first is not None:
            self.first.restart()
        self.batcher.forget_names()

    def _batch(self, partition: int, views: dict[str, NDArray[Any]], *, end_of_stream: bool) -> PacketBatch:
        extra = self.batcher.extra
        return PacketBatch(
            probe=self._origin.probe,
            epoch=self._sequencer.epoch,
            partition=partition,
            partitions=self.batcher.partitions,
            sequence=self._sequencer.next(partition),
            sent_time_ns=0,
            columns=views,
            observation_point=self._point,
            end_of_stream=end_of_stream,
            replayed=self._origin.replayed,
            head_packets=extra.head_packets,
            head_octets=extra.head_octets,
        )

    def _send(self, partition: int, views: dict[str, NDArray[Any]]) -> None:
        batch = self._batch(partition, views, end_of_stream=False)
        self._emit(batch, int(self.batcher.since_ns[partition]))
        summary = self._summary
        summary.packets_sent += batch.packets
        summary.octets += int(views["octets"].sum(dtype=np.int64))
        summary.batches += 1
        summary.packets_by_partition[partition] += batch.packets
        summary.batches_by_partition[partition] += 1
