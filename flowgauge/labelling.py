"""Flow records joined with what nDPI calls the flows: the rows of a labels file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowgauge.ndpi import UNKNOWN, Key, NdpiFlow, join_key
from schemas.community_id import address_text
from schemas.features import FeatureBatch
from streams.config import RepresentationSettings, StreamsSettings
from streams.offline import OfflineSummary, run_offline

_MS = 1_000_000
_SLACK_MS = 1
"""NFStream cuts times off after the millisecond; its flow may seem to begin or end a little before."""


@dataclass(frozen=True)
class LabelRow:
    """A flow record's flow, and its label."""

    flow_id: int
    source_address: str
    destination_address: str
    source_port: int
    destination_port: int
    protocol: int
    start_ns: int
    end_ns: int
    label: str
    guessed: bool


@dataclass(frozen=True)
class OurFlow:
    """What a flow record says about which flow it is."""

    flow_id: int
    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    protocol: int
    ip_version: int
    start_ns: int
    end_ns: int

    @property
    def key(self) -> Key:
        """Return what nDPI's flows are found by."""
        return join_key(self.source, self.source_port, self.destination, self.destination_port, self.protocol)

    def labelled(self, label: str, guessed: bool) -> LabelRow:
        """Return the flow with its label."""
        return LabelRow(
            self.flow_id,
            address_text(self.source, self.ip_version),
            address_text(self.destination, self.ip_version),
            self.source_port,
            self.destination_port,
            self.protocol,
            self.start_ns,
            self.end_ns,
            label,
            guessed,
        )


@dataclass
class Labelled:
    """The labels found, and what became of each flow.

    ``counts``: ``flows`` = ``labelled`` + ``unknown`` (nDPI does not know it) + ``guessed`` (left out) +
    ``ambiguous`` (several labels at the time) + ``unmatched`` (NFStream has no such flow). Of NFStream's,
    ``ndpi_flows``, ``ndpi_unmatched`` belong to no flow record.
    """

    rows: list[LabelRow] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def our_flows(
    captures: Sequence[str],
    settings: StreamsSettings,
    partitions: int,
    probe: str,
    on_progress: Callable[[int, float], None] | None = None,
) -> tuple[list[OurFlow], OfflineSummary]:
    """Return each flow record that ``flowgauge flows`` makes of the captures; raises as ``run_offline`` does."""
    one = RepresentationSettings(name="flow", kind="flow", features=("protocol",))
    found: list[OurFlow] = []
    summary = run_offline(
        captures,
        settings.model_copy(update={"representations": (one,)}),
        partitions=partitions,
        probe=probe,
        on_batch=lambda batch: found.extend(_flows_of(batch)),
        on_progress=on_progress,
    )
    return found, summary


def _flows_of(batch: FeatureBatch) -> Iterator[OurFlow]:
    columns = batch.columns
    names = ("source_port", "destination_port", "protocol", "ip_version", "start_ns", "end_ns")
    addresses = (columns[name].tobytes() for name in ("source_address", "destination_address"))
    source, destination = addresses
    numbers: Iterable[tuple[Any, ...]] = zip(*(columns[name].tolist() for name in names), strict=True)
    for i, (flow_id, values) in enumerate(zip(columns["flow_id"].tolist(), numbers, strict=True)):
        at = slice(16 * i, 16 * i + 16)
        yield OurFlow(flow_id, source[at], destination[at], *values)


def join(flows: Sequence[OurFlow], ndpi: Iterable[NdpiFlow], guesses: bool) -> Labelled:
    """Give each flow the label of nDPI's flows of the same five-tuple that overlap it in time.

    Labels from a flow's payload come before guesses; where those differ, the flow has none. With ``guesses``
    a guess stands where nothing else is known.
    """
    by_key: defaultdict[Key, list[NdpiFlow]] = defaultdict(list)
    for one in ndpi:
        by_key[one.key].append(one)
    out = Labelled()
    matched: set[int] = set()
    for flow in flows:
        first_ms, last_ms = flow.start_ns // _MS - _SLACK_MS, flow.end_ns // _MS + _SLACK_MS
        near = [o for o in by_key.get(flow.key, ()) if o.first_ms <= last_ms and o.last_ms >= first_ms]
        matched.update(map(id, near))
        fate, label, guessed = _decide(near, guesses)
        out.counts[fate] += 1
        if label is not None:
            out.rows.append(flow.labelled(label, guessed))
    out.rows.sort(key=lambda row: (row.start_ns, row.flow_id))
    out.counts["flows"] = len(flows)
    total = sum(map(len, by_key.values()))
    out.counts.update(ndpi_flows=total, ndpi_unmatched=total - len(matched))
    return out


def _decide(near: Sequence[NdpiFlow], guesses: bool) -> tuple[str, str | None, bool]:
    """Return what becomes of a flow with these of nDPI's at its time: (counter, label, whether guessed)."""
    if not near:
        return "unmatched", None, False
    known = {o.label for o in near if o.label != UNKNOWN and not o.guessed}
    guessed = not known
    if guessed:
        known = {o.label for o in near if o.label != UNKNOWN}
    if not known:
        return "unknown", None, False
    if len(known) > 1:
        return "ambiguous", None, False
    if guessed and not guesses:
        return "guessed", None, False
    return "labelled", known.pop(), guessed
