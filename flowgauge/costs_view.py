"""Costs for people and programs: one table for the demo and for ``flowgauge costs``, a line, an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flowgauge.costs import PipelineCosts, StageCost
from flowgauge.messages import duration, short

ALL_WELL = "nothing lost, nothing behind"
NOTHING_YET = "no stage has told its costs yet"

_Cell = Callable[[StageCost], Text | str]


def _dropped(cost: StageCost) -> Text:
    told = [
        f"{short(count)} {reason.replace('_', ' ')}" for reason, count in cost.dropped.most_common() if count
    ]
    return Text(", ".join(told) or "-", style="yellow" if told else "dim")


def _lag(cost: StageCost) -> Text:
    if not cost.lag_records:
        return Text("-", style="dim")
    seconds = "" if cost.lag_s is None else f" {duration(cost.lag_s * 1e9)}"
    return Text(f"{short(cost.lag_records)} msg{seconds}", style="bold red" if cost.behind else "")


COLUMNS: Mapping[str, _Cell] = {
    "processes": lambda cost: str(len(cost.live())),
    "items": lambda cost: f"{short(cost.items_in)} {cost.unit}",
    "in/s": lambda cost: f"{short(cost.rates().items_in)} {cost.unit}",
    "out/s": lambda cost: short(cost.rates().items_out),
    "dropped": _dropped,
    "CPU": lambda cost: f"{cost.rates().cpu:.1%}",
    "CPU each": lambda cost: duration(cost.cpu_ns_per_item),
    "state": lambda cost: f"{short(cost.state_bytes)}B",
    "output": lambda cost: f"{short(cost.output_bytes)}B",
    "output/s": lambda cost: f"{short(cost.rates().output_bytes)}B",
    "p50": lambda cost: duration(cost.latency_p50_ns),
    "p99": lambda cost: duration(cost.latency_p99_ns),
    "lag": _lag,
}
"""Everything that a table can tell about a stage, by the title of its column."""

SUMMED = ("items", "CPU each", "state", "output", "p50", "p99")
"""Columns of what was done so far."""
LIVE = (
    "processes", "in/s", "out/s", "dropped", "CPU", "CPU each", "state", "output/s", "p50", "p99", "lag",
)  # fmt: skip
"""Columns of what is going on."""


def cost_table(stages: Mapping[str, StageCost], columns: Sequence[str], title: str) -> Table:
    """Return a table with a row for each stage, in the order given."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in columns:
        wraps = name == "dropped"
        table.add_column(name, justify="left" if wraps else "right", no_wrap=not wraps, overflow="fold")
    for stage, cost in stages.items():
        style = "red" if cost.behind else ""
        table.add_row(Text(stage, style=style), *(COLUMNS[name](cost) for name in columns))
    return table


def probe_table(costs: PipelineCosts) -> Table | None:
    """Return a table of what is told about each probe; None where nothing is."""
    probes = costs.probes()
    if not probes:
        return None
    table = Table(
        box=box.SIMPLE_HEAD, title="Probes", title_justify="left", title_style="bold", pad_edge=False
    )
    table.add_column("probe", no_wrap=True)
    for name in ("clock off by", "heard", "restarts"):
        table.add_column(name, justify="right", no_wrap=True)
    for probe in probes:
        heard = "-" if probe.heard_s is None else f"{duration(probe.heard_s * 1e9)} ago"
        style = "bold red" if probe.silent else ""
        table.add_row(probe.name, probe.clock, heard, str(probe.restarts), style=style)
    return table


def verdict_text(costs: PipelineCosts) -> Text:
    """Return what is wrong with the pipeline in a line, coloured; or that all is well."""
    if not costs.stages:
        return Text(NOTHING_YET, style="dim")
    problems = costs.verdict()
    return Text("; ".join(problems), style="bold red") if problems else Text(ALL_WELL, style="green")


def status_line(costs: PipelineCosts) -> str:
    """Return the pipeline in one line, for where there is no terminal."""
    parts = []
    for stage, cost in costs.stages.items():
        rates = cost.rates()
        parts.append(
            f"{stage} {short(rates.items_in)} {cost.unit}/s in, {short(rates.items_out)} out, CPU {rates.cpu:.0%}, "
            f"p99 {duration(cost.latency_p99_ns)}, lag {cost.lag_records}"
        )
    return "; ".join([*parts, verdict_text(costs).plain])


def as_object(costs: PipelineCosts) -> dict[str, Any]:
    """Return it all for ``--json``: totals, rates of the window, hops and the verdict."""
    return {
        "records": costs.records,
        "stages": {stage: _stage_object(cost) for stage, cost in costs.stages.items()},
        "hops": [
            {
                "from": hop.source,
                "to": hop.target,
                "what": hop.unit,
                "sent": hop.sent,
                "taken": hop.taken,
                "missing": hop.missing,
            }
            for hop in costs.hops()
        ],
        "probes": [asdict(probe) for probe in costs.probes()],
        "problems": costs.verdict(),
    }


def _stage_object(cost: StageCost) -> dict[str, Any]:
    rates = cost.rates()
    return {
        "unit": cost.unit,
        "processes": len(cost.live()),
        "items_in": cost.items_in,
        "items_out": cost.items_out,
        "items_in_per_s": rates.items_in,
        "items_out_per_s": rates.items_out,
        "dropped": dict(cost.dropped),
        "counters": dict(cost.counters),
        "cpu_share": rates.cpu,
        "cpu_ns_per_item": cost.cpu_ns_per_item,
        "state_bytes": cost.state_bytes,
        "output_bytes": cost.output_bytes,
        "output_bytes_per_s": rates.output_bytes,
        "latency_p50_ns": cost.latency_p50_ns,
        "latency_p99_ns": cost.latency_p99_ns,
        "lag_records": cost.lag_records,
        "lag_s": cost.lag_s,
    }
