"""``names_…``: what names and services cost: a probe that reads names, a flow table that holds thousands of rules."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from flowgauge.bench.corpus import Corpus
from flowgauge.bench.results import REPEATS, Result
from flowgauge.bench.stages.features import kept_columns
from producers.batcher import Batcher
from producers.names.finder import NameFinder
from producers.names.told import NOTHING_TOLD
from producers.sources.capture import open_capture
from streams.config import StreamsSettings
from streams.engine import FeatureEngine
from streams.plan import Plan
from streams.probe_flows import ProbeFlows
from streams.services.config import ServiceSettings
from streams.services.rules import RuleBook

DOMAINS, PREFIXES, SERVICES = 50_000, 10_000, 50
_FIRST = int(ipaddress.ip_address("11.0.0.0"))


def names(corpus: Corpus, settings: StreamsSettings, partitions: int, min_seconds: float) -> list[Result]:
    """Measure, by CPU time and in turns, what names add to decoding and batching, and rules to the flow table."""
    services = made_services()
    began_ns = time.process_time_ns()
    RuleBook(services, "bench")
    took_s = (time.process_time_ns() - began_ns) / 1e9
    rules: dict[str, Any] = {"domains": DOMAINS, "prefixes": PREFIXES, "services": SERVICES}
    plain = settings.model_copy(update={"services": ()})
    ruled = settings.model_copy(update={"services": services})
    probe = _added(
        lambda: _probe(corpus, partitions, False), lambda: _probe(corpus, partitions, True), min_seconds
    )
    table = _added(_table(corpus, plain, partitions), _table(corpus, ruled, partitions), min_seconds)
    return [
        _result("names_probe", *probe),
        _result("names_services", *table, **rules),
        Result("names_rules_load", round(took_s, 3), "s", details=rules),
    ]


def made_services() -> tuple[ServiceSettings, ...]:
    """Return services with many domains and prefixes, none of which the shipped capture's flows match."""
    return tuple(
        ServiceSettings(
            name=f"service_{n}",
            domains=tuple(f"host{i}.service{n}.example" for i in range(DOMAINS // SERVICES)),
            prefixes=tuple(
                f"{ipaddress.ip_address(_FIRST + (n * PREFIXES // SERVICES + i << 8))}/24"
                for i in range(PREFIXES // SERVICES)
            ),
        )
        for n in range(SERVICES)
    )


def _result(name: str, added: list[float], base: list[float], **details: Any) -> Result:
    return Result(
        name,
        round(median(added), 2),
        "ns/packet",
        spread=(round(min(added), 2), round(max(added), 2)),
        repeats=len(added),
        details={"without_ns": round(median(base), 2), **details},
    )


def _added(
    without: Callable[[], int], with_: Callable[[], int], min_seconds: float
) -> tuple[list[float], list[float]]:
    """Return, for each repeat, what one takes more CPU time than the other, and what the other takes; ns a packet."""
    added, base = [], []
    without(), with_()
    for _ in range(REPEATS):
        taken, packets, began_s = [0, 0], [0, 0], time.perf_counter()
        while time.perf_counter() - began_s < min_seconds or not packets[1]:
            for at, run in enumerate((without, with_)):
                began_ns = time.process_time_ns()
                packets[at] += run()
                taken[at] += time.process_time_ns() - began_ns
        base.append(taken[0] / packets[0])
        added.append(taken[1] / packets[1] - base[-1])
    return added, base


def _probe(corpus: Corpus, partitions: int, with_names: bool) -> int:
    """Decode and batch the corpus; return its packets."""
    finder, packets = NameFinder() if with_names else None, 0
    batcher = Batcher(partitions, names=with_names)
    for path in corpus.paths:
        with open_capture(str(path), names=finder) as capture:
            for block in capture.blocks():
                packets += block.packets
                for _ in batcher.add(block, 0, finder.take() if finder else NOTHING_TOLD):
                    pass
    return packets


def _table(corpus: Corpus, settings: StreamsSettings, partitions: int) -> Callable[[], int]:
    """Return what folds the corpus's first packets into flow tables."""
    plan = Plan(settings)
    batches = kept_columns(FeatureEngine(("counters",)), corpus, partitions)
    packets = sum(len(columns["time_ns"]) for _, columns in batches)
    tables = [ProbeFlows(plan, "bench") for _ in range(partitions)]

    def run() -> int:
        for number, columns in batches:
            for _ in tables[number].apply(columns):
                pass
        for table in tables:
            for _ in table.end_all():
                pass
        return packets

    return run
