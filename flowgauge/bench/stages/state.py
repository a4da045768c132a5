"""``state_bytes_per_flow`` and ``rss_mb_million_flows``: what open flows take."""

from __future__ import annotations

import json
import sys

from flowgauge.bench.children import output_of
from flowgauge.bench.results import Result
from flowgauge.bench.synthetic import columns_of
from schemas.packets import MAX_PACKETS
from streams.config import StreamsSettings
from streams.plan import Plan
from streams.probe_flows import ProbeFlows
from streams.table import used_bytes

FULL_FLOWS = 1 << 16
MANY_FLOWS = 1_000_000


def state(settings: StreamsSettings, partitions: int, many: int = MANY_FLOWS) -> list[Result]:
    """Measure a full table, and the memory of a worker's process with ``many`` active flows."""
    return [_full_table(settings), _many(settings, partitions, many)]


def _full_table(settings: StreamsSettings) -> Result:
    plan = Plan(settings)
    flows = ProbeFlows(plan, "bench", max_flows=FULL_FLOWS)
    for first in range(0, FULL_FLOWS, MAX_PACKETS):
        for _ in flows.apply(columns_of(first, MAX_PACKETS)):
            pass
    table = flows.table
    return Result(
        "state_bytes_per_flow",
        round(used_bytes(table) / flows.active, 1),
        "bytes/flow",
        details={
            "flows": flows.active,
            "row_bytes": table.rows.itemsize,
            "deadline_bytes": table.deadlines.itemsize,
            "index_bytes": round(table.slots.nbytes / flows.active, 1),
        },
    )


def _many(settings: StreamsSettings, partitions: int, flows: int) -> Result:
    """Ask a process of its own: this one has held captures."""
    work = {"settings": settings.model_dump(mode="json"), "partitions": partitions, "flows": flows}
    found = json.loads(output_of([sys.executable, "-m", "flowgauge.bench.many_flows", json.dumps(work)]))
    name = "rss_mb_million_flows" if flows == MANY_FLOWS else f"rss_mb_{flows}_flows"
    return Result(name, found.pop("rss_mb"), "MB", details=found)
