"""Captures in, feature batches out, without a bus: the same batches and the same core as on it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from producers.batcher import Batcher
from producers.columns import PacketColumns
from producers.first_packets import FirstPackets, Selection
from producers.names.finder import NameFinder
from producers.names.told import NOTHING_TOLD
from producers.privacy.privacy import Privacy
from producers.sources.capture import Capture, open_capture
from schemas.features import FeatureBatch
from schemas.packets import PacketBatch
from streams.config import StreamsSettings
from streams.partition import Partition
from streams.plan import Plan

OnBatch = Callable[[FeatureBatch], None]
OnProgress = Callable[[int, float], None]
"""Called now and then with (packets read, fraction of the input done, 0 to 1)."""


@dataclass
class OfflineSummary:
    """What a run over captures did."""

    read: int = 0
    accepted: int = 0
    left_out: int = 0
    """Of those accepted, packets after the first of their flow (``packets.first_packets``)."""
    skipped: Counter[str] = field(default_factory=Counter)
    flows: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    services: dict[str, dict[str, int]] = field(default_factory=dict)
    """Packets, octets and flows by service; those of no service under "unknown". Empty where none is named."""
    rules_without_match: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as ``flowgauge flows --json`` prints it."""
        return {
            "packets": {
                "read": self.read,
                "accepted": self.accepted,
                "skipped": dict(self.skipped),
                "left_out": self.left_out,
            },
            "flows": self.flows,
            "rows": dict(self.rows),
            "counters": dict(self.counters),
            **(
                {"services": self.services, "rules_without_match": self.rules_without_match}
                if self.services
                else {}
            ),
            "warnings": self.warnings,
            "duration_s": round(self.duration_s, 3),
        }


class Offline:
    """The flows agent's partitions fed straight from the decoder.

    It splits the flows over as many partitions as the bus would, since event time goes on per partition.
    """

    def __init__(
        self,
        settings: StreamsSettings,
        partitions: int,
        probe: str,
        privacy: Privacy | None = None,
        selection: Selection | None = None,
    ) -> None:
        """Make ready; raises SettingsError for an unknown feature."""
        plan = Plan(settings)
        self.probe = probe
        self.names = NameFinder(privacy) if settings.services else None
        """Who looks for names of servers: to be given to ``open_capture``."""
        self.batcher = Batcher(partitions, extra=plan.needs, names=self.names is not None)
        self.first = None if selection is None else FirstPackets(selection, partitions, plan.needs)
        self.partitions = [Partition(plan, number) for number in range(partitions)]
        self._sequences = [0] * partitions

    def feed(self, capture: Capture) -> Iterator[FeatureBatch]:
        """Yield the rows that a capture's packets make due, up to the last full batch."""
        for block in capture.blocks(extra=self.batcher.extra):
            yield from self.take(block)

    def take(self, block: PacketColumns) -> Iterator[FeatureBatch]:
        """Yield the rows that a block, the one that the capture gave last, makes due."""
        told = NOTHING_TOLD if self.names is None else self.names.take()
        if self.first is not None:
            block, told = self.first.take(block, (0, block.packets), told)
        for number, columns in self.batcher.add(block, 0, told):
            yield from self._apply(number, columns)

    def end(self) -> Iterator[FeatureBatch]:
        """Yield what is left: the last batches' rows, then those of all flows, ended by force."""
        for number, columns in self.batcher.flush():
            yield from self._apply(number, columns)
        for partition in self.partitions:
            yield from partition.end_all(0)

    def services(self) -> dict[str, dict[str, int]]:
        """Return packets, octets and flows by service, and of none ("unknown")."""
        names = ("unknown", *self.partitions[0].plan.services)
        usage = sum(probe.flows.usage for p in self.partitions for probe in p.probes.values())
        counted = np.zeros((len(names), 3), np.int64) + usage
        return {
            name: dict(zip(("packets", "octets", "flows"), row, strict=True))
            for name, row in zip(names, counted.tolist(), strict=True)
        }

    def unused_rules(self) -> list[str]:
        """Return the rules that matched nothing."""
        books = [probe.flows.book for p in self.partitions for probe in p.probes.values()]
        if not books:
            return []
        unused = set.intersection(*(set(book.unused()) for book in books))
        return [text for text in books[0].texts if text in unused]

    def _apply(self, number: int, columns: dict[str, Any]) -> Iterator[FeatureBatch]:
        sequence = self._sequences[number]
        self._sequences[number] += 1
        batch = PacketBatch(
            probe=self.probe,
            epoch=0,
            partition=number,
            partitions=len(self.partitions),
            sequence=sequence,
            sent_time_ns=0,
            columns=columns,
            replayed=True,
            head_packets=self.batcher.extra.head_packets,
            head_octets=self.batcher.extra.head_octets,
        )
        yield from self.partitions[number].apply(batch, 0, 0)


def run_offline(
    captures: Sequence[str],
    settings: StreamsSettings,
    *,
    partitions: int,
    probe: str,
    on_batch: OnBatch,
    on_progress: OnProgress | None = None,
    privacy: Privacy | None = None,
    selection: Selection | None = None,
) -> OfflineSummary:
    """Read captures one after the other as one stream and hand every feature batch to ``on_batch``.

    Args:
        captures: paths; ``-`` is standard input.
        settings: timeouts and representations.
        partitions: how many partitions the flows are split over.
        probe: name of the probe in the records.
        on_batch: takes each batch as it is made; the order within a flow is that of event time.
        on_progress: see ``OnProgress``.
        privacy: hides addresses and names, as a probe would. None: nothing is hidden.
        selection: which packets a probe would send. None: all.

    Raises:
        InputError: a capture that cannot be read at all; SettingsError: an unknown feature.
    """
    began = time.perf_counter()
    summary = OfflineSummary()
    offline = Offline(settings, partitions, probe, privacy, selection)

    def take(batches: Iterator[FeatureBatch]) -> None:
        for batch in batches:
            summary.rows[batch.representation] += batch.rows
            on_batch(batch)

    for done, path in enumerate(captures):
        with open_capture(path, names=offline.names, privacy=privacy) as capture:
            for block in capture.blocks(extra=offline.batcher.extra):
                take(offline.take(block))
                if on_progress:
                    share = capture.bytes_read / capture.size if capture.size else 0.0
                    on_progress(summary.read + capture.counters.read, (done + share) / len(captures))
            summary.read += capture.counters.read
            summary.accepted += capture.counters.accepted
            summary.skipped.update(capture.counters.skipped)
            summary.warnings += capture.warnings
    take(offline.end())
    if offline.first is not None:
        summary.left_out = offline.first.left_out
    if settings.services:
        summary.services = offline.services()
        summary.rules_without_match = offline.unused_rules()
    for partition in offline.partitions:
        summary.counters.update(partition.counts())
    summary.flows = sum(n for name, n in summary.counters.items() if name.startswith("closed_"))
    summary.duration_s = time.perf_counter() - began
    return summary
