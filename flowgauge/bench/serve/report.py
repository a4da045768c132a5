"""One run of ``flowgauge bench serve`` as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def show(machine: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """Print the machine, and the figures of one run as a table or of several as a line each."""
    console = Console()
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{machine['system']} {machine['kernel']}, load {machine['load_1min']} before",
        highlight=False,
    )
    console.print(_one(found[0]) if len(found) == 1 else _several(found))


def _one(found: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("measured")
    for what, measured in _lines(found):
        table.add_row(what, measured)
    return table


def _several(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for head in (
        "workers",
        "offered",
        "served",
        "misses",
        "in 16 ms",
        "median",
        "F1",
        "escalated",
        "CPU a flow",
    ):
        table.add_column(head, justify="right")
    for run in runs:
        late = run["latency_p50_ms"]
        table.add_row(
            str(run["workers"]),
            f"{run['flows_offered_per_s']:,.0f}/s",
            f"{run['flows_served_per_s']:,.0f}/s",
            f"{run['misses']:,}",
            f"{run['share_within_16ms']:.1%}",
            "–" if late is None else f"{late:g} ms",
            f"{run['f1']:.3f}",
            f"{run['share_escalated']:.1%}",
            f"{run['cpu_us_per_flow']:.0f} µs",
        )
    return table


def _lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    late = found["latency_ms"]
    quantiles = {
        name: "  ".join(f"{q} {value:g} ms" for q, value in of.items()) or "no answers"
        for name, of in late.items()
    }
    return [
        (
            "new flows offered",
            f"{found['flows_offered_per_s']:,.0f}/s ({found['packets_per_s']:,} packets/s)",
        ),
        ("packets sent", f"{found['packets_sent_per_s']:,}/s"),
        ("flows served", f"{found['flows_served_per_s']:,.0f}/s of {found['flows']:,}"),
        ("without a final answer", f"{found['misses']:,}"),
        ("with two", f"{found['answered_twice']:,}"),
        ("answered within 16 ms", f"{found['share_within_16ms']:.1%}"),
        *((f"latency, {name}", text) for name, text in quantiles.items()),
        ("hops, median", "  ".join(f"{n} {of['p50']:g} ms" for n, of in found["hops_ms"].items() if of)),
        ("escalated", f"{found['share_escalated']:.1%} (tuned for {found['share_tuned']:.0%})"),
        ("weighted F1, misses wrong", f"{found['f1']:.4f}"),
        ("F1 of all flows on the slow tier", f"{found['f1_all_slow']:.4f}"),
        ("unknown", f"{found['unknown']:,}"),
        ("CPU of broker and workers", f"{found['cpu_us_per_flow']:.1f} µs/flow"),
        ("cores taken", "  ".join(f"{name} {share:.2f}" for name, share in found["cpu_share"].items())),
        ("memory, MiB", "  ".join(f"{name} {mb:.0f}" for name, mb in found["rss_mb"].items())),
        ("partitions, workers of each stage", f"{found['partitions']}, {found['workers']}"),
        ("generator late at most", f"{found['generator_late_max_ms']:g} ms"),
    ]
