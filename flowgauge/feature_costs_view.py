"""Prices of features for people: a table, a page of Markdown, a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Row = tuple[str, ...]
HEADS = ("feature", "level", "alone", "in company", "median", "p99", "state", "record", "packet", "storage")
UNITS = ("", "", "ns/packet", "ns/packet", "ns/packet", "ns/packet", "B/flow", "B/row", "B/packet", "GB/h")
_GB = 1e9
_WIDTH = 140
"""Where it goes to no terminal, so that no cell is cut."""


def interval(cpu: dict[str, float]) -> str:
    """Return a mean and half the width of its 95 % interval."""
    return f"{cpu['mean']:.1f} ±{(cpu['high'] - cpu['low']) / 2:.1f}"


def rows(report: dict[str, Any]) -> list[Row]:
    """Return the cells of the table: the base, every feature, all together."""
    base, together = report["base"], report["together"]
    found = [("(no feature)", "", interval(base["cpu_ns_per_packet"]), "", *_rest(base, base, 0.0))]
    for f in report["features"]:
        alone, company = f["alone"], f["company"]
        cpu = interval(alone["cpu_ns_per_packet"]), interval(company["cpu_ns_per_packet"])
        found.append((f["name"], f["level"], *cpu, *_rest(company, f, f["packet_bytes"])))
    # One kind of extra column serves all features that need it, so the sum would be too much.
    total = "", interval(together["cpu_ns_per_packet"])
    found.append(("all added", "", *total, *_rest(together, together, None)))
    return found


def _rest(price: dict[str, Any], state: dict[str, Any], packet_bytes: float | None) -> Row:
    cpu = price["cpu_ns_per_packet"]
    return (
        f"{cpu['median']:.1f}",
        f"{cpu['p99']:.1f}",
        f"{state['state_bytes_per_flow']}",
        f"{price['record_bytes']:.1f}",
        "" if packet_bytes is None else f"{packet_bytes:.1f}",
        f"{price['storage_bytes_per_hour'] / _GB:.2f}",
    )


def title(report: dict[str, Any]) -> str:
    """Return what was measured, in a line."""
    rep, link = report["representation"], report["link"]
    period = {"window": f", windows of {rep['every_s']:g} s", "early": f", {rep['depth']} packets deep"}
    return (
        f"{rep['name']} ({rep['kind']}{period.get(rep['kind'], '')}): {report['packets']:,} packets"
        f"{' (first of more)' if report['cut'] else ''}, {report['flows']:,} flows, {report['rows']:,} rows, "
        f"{report['repeats']} repeats; storage at {link['gbps']:g} Gb/s, {link['packets_per_s']:,.0f} packets/s"
    )


NOTE = (
    "Alone: added to a kernel without features; in company, and all that stands behind it: added to one with all the "
    "others. ± is the 95 % interval of the mean. Record and storage are compressed (lz4), as on the bus."
)


def show(report: dict[str, Any]) -> None:
    """Print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _WIDTH))
    table = Table(
        box=box.SIMPLE_HEAD, title=title(report), title_justify="left", caption=NOTE, pad_edge=False
    )
    for number, (head, unit) in enumerate(zip(HEADS, UNITS, strict=True)):
        table.add_column(f"{head}\n{unit}", justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows(report):
        table.add_row(*row)
    console.print(table)


def as_markdown(report: dict[str, Any]) -> str:
    """Return the table as a page."""
    heads = [f"{head} ({unit})" if unit else head for head, unit in zip(HEADS, UNITS, strict=True)]
    lines = ["# What features cost", "", f"{title(report)}; {', '.join(report['captures'])}.", "", NOTE, ""]
    lines += [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(HEADS) - 2)]
    lines += [f"| {' | '.join(row)} |" for row in rows(report)]
    return "\n".join(lines) + "\n"


def draw(folder: Path, report: dict[str, Any]) -> bool:
    """Draw ``cost.svg`` and ``cost.png``; False where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    features = report["features"][::-1]
    names = [f["name"] for f in features]
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    cpu, state, storage = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1, 1))
    for place, colour, shift in (("alone", "#9ecae1", 0.2), ("company", "#08519c", -0.2)):
        found = [f[place]["cpu_ns_per_packet"] for f in features]
        errors = [[c["mean"] - c["low"] for c in found], [c["high"] - c["mean"] for c in found]]
        label = "alone" if place == "alone" else "in company"
        at = [i + shift for i in range(len(names))]
        cpu.barh(at, [c["mean"] for c in found], 0.38, xerr=errors, color=colour, label=label, capsize=2)
    cpu.set(xlabel="CPU, ns a packet", yticks=range(len(names)), yticklabels=names)
    cpu.legend()
    state.barh(names, [f["state_bytes_per_flow"] for f in features], 0.7, color="#74c476")
    state.set(xlabel="state, bytes a flow")
    stored = [f["company"]["storage_bytes_per_hour"] / _GB for f in features]
    storage.barh(names, stored, 0.7, color="#fd8d3c")
    storage.set(xlabel=f"storage, GB/h at {report['link']['gbps']:g} Gb/s")
    for axes in (cpu, state, storage):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"cost.{ending}", dpi=120)
    return True
