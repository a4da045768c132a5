"""One probe's payloads: from the blocks of its captures to numbered batches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from producers.columns import PacketColumns
from producers.config import PayloadSettings
from producers.followed import FlowRules
from producers.payloads.batcher import PayloadBatcher
from producers.payloads.sampler import PayloadSampler
from producers.sequence import Sequencer
from schemas.flow_key import probe_hash_of
from schemas.payloads import PayloadBatch, empty_columns

EmitPayloads = Callable[[PayloadBatch], None]


class PayloadStream:
    """Chooses and batches the payloads of one probe.

    ``sampler`` is the tap that the captures are read with; ``add`` after each block, or part of one, that is due.

    Args:
        probe: its name.
        settings: which packets; the mode must not be off.
        rules: when flows end.
        partitions: how many partitions flows are split over.
        epoch: when the probe started, in ns since the Unix epoch.
        emit: called with each batch.
        replayed: the packets come from files.
    """

    def __init__(
        self,
        probe: str,
        settings: PayloadSettings,
        rules: FlowRules,
        partitions: int,
        epoch: int,
        emit: EmitPayloads,
        *,
        replayed: bool,
    ) -> None:
        self.sampler = PayloadSampler(settings, partitions, rules)
        self.batcher = PayloadBatcher(partitions, settings.octets)
        self._probe, self._probe_hash = probe, probe_hash_of(probe)
        self._octets, self._replayed = settings.octets, replayed
        self._sequencer = Sequencer(partitions, epoch)
        self._emit = emit
        self._point = ""
        self._cpu_ns = 0

    @property
    def cpu_ns(self) -> int:
        """CPU time spent choosing, copying and batching, without what ``emit`` takes."""
        return self._cpu_ns + self.sampler.cpu_ns

    @property
    def state_bytes(self) -> int:
        """Memory of the flows followed and of the batches, once all was used."""
        return self.sampler.state_bytes + self.batcher.state_bytes

    def counts(self) -> Counter[str]:
        """Return the sampler's counts (see ``producers.payloads.sampler.NAMES``)."""
        return Counter(self.sampler.told())

    def add(
        self, point: str, block: PacketColumns, rows: tuple[int, int], offset_ns: int, now_ns: int
    ) -> None:
        """Take in the chosen packets among some rows of the block read last; see ``PayloadBatcher.add``."""
        if point != self._point:
            # A batch names one observation point.
            self.flush()
            self._point = point
        began_ns = time.thread_time_ns()
        for partition, views in self.batcher.add(
            block, self.sampler.rows, rows, offset_ns, self._probe_hash, now_ns
        ):
            self._cpu_ns += time.thread_time_ns() - began_ns
            self._send(partition, views)
            began_ns = time.thread_time_ns()
        self._cpu_ns += time.thread_time_ns() - began_ns

    def flush(self, before_ns: int | None = None) -> None:
        """Send what waits: all, or the partitions whose first packet was added at ``before_ns`` or earlier."""
        batcher = self.batcher
        for p in range(batcher.partitions) if before_ns is None else batcher.overdue(before_ns):
            for partition, views in batcher.flush(p):
                self._send(partition, views)

    def end(self) -> None:
        """Send what waits, mark the end on every partition and forget all flows; then another epoch begins."""
        self.flush()
        for partition in range(self.batcher.partitions):
            self._send(partition, empty_columns(), end_of_stream=True)
        self._sequencer.restart()
        self.sampler.restart()

    def _send(self, partition: int, views: dict[str, NDArray[Any]], *, end_of_stream: bool = False) -> None:
        self._emit(
            PayloadBatch(
                probe=self._probe,
                epoch=self._sequencer.epoch,
                partition=partition,
                partitions=self.batcher.partitions,
                sequence=self._sequencer.next(partition),
                sent_time_ns=0,
                columns=views,
                first_octets=self._octets,
                observation_point=self._point,
                end_of_stream=end_of_stream,
                replayed=self._replayed,
            )
        )


def waiting_since_ns(payloads: PayloadStream | None, otherwise_ns: int) -> int:
    """Return when the first waiting packet was added, or ``otherwise_ns`` if that is earlier."""
    return otherwise_ns if payloads is None else min(otherwise_ns, int(np.min(payloads.batcher.since_ns)))
