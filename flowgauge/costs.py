"""What the pipeline costs and whether its hops add up, folded from the records of ``telemetry.cost``."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flowgauge.costs_probes import ProbeState, Record, probe_states

SOURCES = ("probe", "replay")
PACKET_MODELS = "packet-models"
CASCADE = "cascade"
ORDER = (*SOURCES, "payloads", "flows", "models", CASCADE, PACKET_MODELS, "record")
WINDOW_S = 10.0
GRACE_NS = 2_000_000_000
"""What was sent so long before a stage told its counts, while nothing waited, must be in them."""
GONE_NS = 5_000_000_000
"""A process that has told nothing for so long, and for three of its intervals, runs no more."""
BEHIND_S = 1.0
"""A stage that is less behind has messages on their way, not a lag."""
_MODELS = ("models", CASCADE)
"""Stages that take rows of features."""
_PAYLOADS = "payloads of packets"
"""What is sent into that hop; not a representation's name, which has no spaces."""
_BROKEN = ("failed", "not_delivered")
"""Reasons of drops that are nobody's wish."""


@dataclass(frozen=True)
class Rates:
    """What a stage did per second, over a window of time, its processes added up."""

    items_in: float
    items_out: float
    output_bytes: float
    cpu: float
    """CPU seconds per second: 1 is a core."""


@dataclass
class StageCost:
    """Telemetry of one stage, summed over intervals and processes."""

    unit: str
    window_ns: int = round(WINDOW_S * 1e9)
    items_in: int = 0
    items_out: int = 0
    cpu_ns: int = 0
    output_bytes: int = 0
    most_state_bytes: int = 0
    now_ns: int = 0
    """Time of the newest record of any stage."""
    dropped: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    last: dict[tuple[str, str], Record] = field(default_factory=dict)
    """The last record of each process, by (instance, detail)."""
    recent: deque[Record] = field(default_factory=deque)
    """Records of the window."""
    _latency_ns: tuple[int | None, int | None] = (None, None)

    def add(self, record: Record) -> None:
        """Add one interval of one process."""
        for name in ("items_in", "items_out", "cpu_ns", "output_bytes"):
            setattr(self, name, getattr(self, name) + record[name])
        self.dropped.update(record["dropped"])
        self.counters.update(record["counters"])
        self.last[record["instance"], record["detail"]] = record
        self.now_ns = max(self.now_ns, record["time_ns"])
        self.most_state_bytes = max(self.most_state_bytes, self.state_bytes)
        if record["latency_p50_ns"] is not None:
            self._latency_ns = record["latency_p50_ns"], record["latency_p99_ns"]
        self.recent.append(record)
        while self.recent and self.recent[0]["time_ns"] <= self.now_ns - self.window_ns:
            self.recent.popleft()

    def live(self) -> list[Record]:
        """Return the last record of each process that still tells."""
        return [r for r in self.last.values() if _tells(r, self.now_ns)]

    def rates(self) -> Rates:
        """Return what is done per second in the window."""
        by_process: dict[tuple[str, str], list[Record]] = {}
        for record in self.recent:
            if record["time_ns"] > self.now_ns - self.window_ns:
                by_process.setdefault((record["instance"], record["detail"]), []).append(record)
        total = [0.0, 0.0, 0.0, 0.0]
        for records in by_process.values():
            interval_ns = sum(r["interval_ns"] for r in records)
            for i, name in enumerate(("items_in", "items_out", "output_bytes", "cpu_ns")):
                total[i] += sum(r[name] for r in records) / max(interval_ns, 1)
        return Rates(total[0] * 1e9, total[1] * 1e9, total[2] * 1e9, total[3])

    @property
    def cpu_ns_per_item(self) -> float | None:
        """Return CPU time per item that came in."""
        return self.cpu_ns / self.items_in if self.items_in else None

    @property
    def state_bytes(self) -> int:
        """Return the memory that holds state, over all processes."""
        return sum(r["state_bytes"] for r in self.live())

    @property
    def latency_p50_ns(self) -> int | None:
        """Return the median time from the probe: of the slowest process in the window, else the last told."""
        return self._worst("latency_p50_ns", 0)

    @property
    def latency_p99_ns(self) -> int | None:
        """Return the 99th percentile of the same."""
        return self._worst("latency_p99_ns", 1)

    def _worst(self, name: str, number: int) -> int | None:
        told = [r[name] for r in self.live() if r[name] is not None]
        return max(told) if told else self._latency_ns[number]

    @property
    def lag_records(self) -> int:
        """Return how many messages wait, over all processes."""
        return sum(r["lag_records"] or 0 for r in self.live())

    @property
    def lag_s(self) -> float | None:
        """Return how far the slowest process is behind; None where messages wait and none can tell."""
        told = [r["gauges"]["lag_s"] for r in self.live() if "lag_s" in r.get("gauges", {})]
        if told:
            return float(max(told))
        return None if self.lag_records else 0.0

    @property
    def behind(self) -> bool:
        """Return whether more waits than what is on its way."""
        lag_s = self.lag_s
        return self.lag_records > 0 and (lag_s is None or lag_s >= BEHIND_S)


@dataclass(frozen=True)
class Hop:
    """The way from one stage to the next: what was sent into it and what came out of it."""

    source: str
    target: str
    unit: str
    sent: int
    due: int
    """Of ``sent``, what must have arrived."""
    taken: int

    @property
    def missing(self) -> int:
        """Return how many items should have arrived and have not."""
        return max(0, self.due - self.taken)


@dataclass
class _Ledger:
    """Counts of one stage's output by time."""

    sent: int = 0
    entries: deque[tuple[int, int]] = field(default_factory=deque)
    """(end of the interval, count), oldest first, as far as they may not be due yet."""
    due: int = 0

    def add(self, end_ns: int, count: int) -> None:
        self.sent += count
        self.entries.append((end_ns, count))

    def settle(self, until_ns: int) -> int:
        """Return what was sent up to a time; times asked for do not go back."""
        while self.entries and self.entries[0][0] <= until_ns:
            self.due += self.entries.popleft()[1]
        return self.due


class PipelineCosts:
    """Costs of every stage, and the counts of each hop against the next.

    Args:
        whole: whether the records begin where the topic began. If not, what was sent in the first two seconds
            does not count as sent, since it cannot be told whether its arrival was seen.
        representations: those that each model reads, by the model's name; others are known by their rows alone.
        window_s: seconds that rates look back on.
    """

    def __init__(
        self,
        *,
        whole: bool = True,
        representations: dict[str, tuple[str, ...]] | None = None,
        window_s: float = WINDOW_S,
    ) -> None:
        self.stages: dict[str, StageCost] = {}
        self.records = 0
        self._whole = whole
        self._window_ns = round(window_s * 1e9)
        self._begin_ns: int | None = None
        self._newest_ns = 0
        self._sent: dict[str, _Ledger] = {}
        """By what is sent: ``packets``, ``_PAYLOADS``, or a representation."""
        self._models: dict[tuple[str, str], Counter[str]] = {}
        """Rows taken by representation, of each stage and model."""
        self._packet_models: Counter[str] = Counter()
        """Packets taken by packet model."""
        self._wanted = dict(representations or {})

    def add(self, record: Record) -> None:
        """Take in a record."""
        self.records += 1
        if self._begin_ns is None:
            self._begin_ns = record["time_ns"] - record["interval_ns"]
        self.look(record["time_ns"])
        stage = record["stage"]
        if stage not in self.stages:
            self.stages[stage] = StageCost(record["unit"], self._window_ns)
            self.stages = dict(sorted(self.stages.items(), key=lambda item: _place(item[0])))
        self.stages[stage].add(record)
        if stage in SOURCES:
            self._note("packets", record, record["items_out"])
        elif stage == "payloads":
            self._note(_PAYLOADS, record, record["items_out"])
        elif stage == PACKET_MODELS:
            self._packet_models[record["detail"]] += record["items_in"]
        elif stage == "flows":
            for name, rows in record["counters"].items():
                if name.startswith("rows_"):
                    self._note(name.removeprefix("rows_"), record, rows)
        elif stage in _MODELS:
            taken = self._models.setdefault((stage, record["detail"]), Counter())
            for name, rows in record["counters"].items():
                if name.startswith("rows_in_"):
                    taken[name.removeprefix("rows_in_")] += rows

    def look(self, now_ns: int) -> None:
        """Say that it is so late: processes that have told nothing since long run no more, and rates fade."""
        self._newest_ns = max(self._newest_ns, now_ns)
        for cost in self.stages.values():
            cost.now_ns = self._newest_ns

    def _note(self, what: str, record: Record, count: int) -> None:
        began_ns = record["time_ns"] - record["interval_ns"]
        if self._whole or began_ns >= (self._begin_ns or 0) + GRACE_NS:
            self._sent.setdefault(what, _Ledger()).add(record["time_ns"], count)

    def hops(self) -> list[Hop]:
        """Return every hop whose both ends have told something."""
        return [*self._packet_hop(), *self._row_hops(), *self._payload_hops()]

    def _packet_hop(self) -> Iterator[Hop]:
        sources = " and ".join(name for name in SOURCES if name in self.stages)
        flows = self.stages.get("flows")
        if sources and flows is not None:
            taken = flows.items_in - flows.dropped["duplicate"]
            yield self._hop(sources, "flows", "packets", "packets", taken)

    def _row_hops(self) -> Iterator[Hop]:
        for (stage, model), taken in self._models.items():
            wanted = self._wanted.get(model, ()) if stage == "models" else ()
            alone = [one for one, _ in self._models].count(stage) == 1
            for representation in sorted({*wanted, *taken}):
                what = f"rows of features.{representation}"
                target = stage if alone else f"{stage} {model}"
                yield self._hop("flows", target, representation, what, taken[representation])

    def _payload_hops(self) -> Iterator[Hop]:
        # Each packet model has readers of its own, so each must have taken all.
        for model, taken in self._packet_models.items() if "payloads" in self.stages else ():
            target = f"{PACKET_MODELS} {model}" if len(self._packet_models) > 1 else PACKET_MODELS
            yield self._hop("payloads", target, _PAYLOADS, _PAYLOADS, taken)

    def _hop(self, source: str, target: str, key: str, unit: str, taken: int) -> Hop:
        ledger = self._sent.get(key, _Ledger())
        due_ns = self._told_ns(target.split()[0]) - GRACE_NS
        return Hop(source, target, unit, ledger.sent, ledger.settle(due_ns), taken)

    def _told_ns(self, stage: str) -> int:
        """Return up to when every process of a stage has told its counts; 0 while messages wait."""
        cost = self.stages[stage]
        if cost.lag_records:
            return 0
        live = [r["time_ns"] for r in cost.live()]
        return min(live) if live else max(r["time_ns"] for r in cost.last.values())

    def silent(self) -> list[str]:
        """Return the processes that fell silent without a last word: their last second is not in the counts."""
        return [
            f"{stage} {instance}"
            for stage, cost in self.stages.items()
            if stage not in SOURCES
            for (instance, _), record in cost.last.items()
            if record["lag_records"] is not None and not _tells(record, self._newest_ns)
        ]

    def probes(self) -> list[ProbeState]:
        """Return what is told about each probe."""
        live = {stage: cost.live() for stage, cost in self.stages.items()}
        sources = [record for stage in SOURCES for record in live.get(stage, ())]
        return probe_states(sources, live.get("flows", ()))

    def verdict(self) -> list[str]:
        """Return what is wrong, a line each, the worst first; nothing when all is well."""
        silent = (probe.problem for probe in self.probes())
        return [*self._losses(), *filter(None, silent), *self._lags()]

    def _losses(self) -> Iterator[str]:
        silent = self.silent()
        for hop in self.hops():
            if hop.missing and not silent:
                yield f"{hop.target} lost {hop.missing:,} {hop.unit}"
        for stage, cost in self.stages.items():
            if missing := cost.counters["batches_missing"]:
                yield f"{stage} lost {missing:,} batches of packets: their sequence has gaps"
            for reason in _BROKEN:
                if count := cost.dropped[reason]:
                    yield f"{stage} dropped {count:,} {cost.unit} ({reason.replace('_', ' ')})"
            if aside := cost.counters["messages_set_aside"]:
                yield f"{stage} set {aside:,} messages aside, see the topic dead-letters"
        for process in silent:
            yield f"{process} fell silent without a last word: its last counts are missing"

    def _lags(self) -> Iterator[str]:
        for stage, cost in self.stages.items():
            if cost.behind:
                behind = "" if cost.lag_s is None else f", {cost.lag_s:.1f} s behind"
                yield f"{stage} lags: {cost.lag_records:,} messages{behind}"


def fold(records: Iterable[Record], **how: Any) -> PipelineCosts:
    """Return the costs that records of ``telemetry.cost`` tell, in their order; see ``PipelineCosts`` for ``how``."""
    costs = PipelineCosts(**how)
    for record in records:
        costs.add(record)
    return costs


def _tells(record: Record, now_ns: int) -> bool:
    """Return whether a process still runs, by the time of its last record."""
    return bool(now_ns - record["time_ns"] < max(GONE_NS, 3 * record["interval_ns"]))


def _place(stage: str) -> tuple[int, str]:
    """Return where a stage stands in the pipeline; those not known come last."""
    return (ORDER.index(stage) if stage in ORDER else len(ORDER), stage)
