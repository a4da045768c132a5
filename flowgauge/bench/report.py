"""The results as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from flowgauge.bench.results import Result

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_SHORT_UNITS = {"packets/s": "/s", "bytes/flow": " B/flow"}
_SHOWN = {
    "bytes_per_packet": "{} bytes a packet",
    "output_bytes_per_packet": "{} bytes of feature messages a packet",
    "packets": "{:,} packets",
    "seconds": "{} s",
    "accounted": "all accounted for: {}",
    "packets_per_s": "{:,} packets/s",
    "keras_predict_packets_per_s": "keras.predict {} packets/s",
    "cpu_s": "CPU seconds: {}",
    "row_bytes": "{} bytes of them the row",
    "state_mb": "{} MB of them flow state",
    "ratio_to_plain": "{} of plain decoding",
    "all_new_ipv4_packets_per_s": "{:,} packets/s where every IPv4 address is new",
    "all_new_ipv6_packets_per_s": "{:,} packets/s where every IPv6 address is new",
    "away_s": "the broker was away for {} s",
    "caught_up_s": "caught up after {} s",
    "spool_mb": "{} MB on disk at most",
}
"""Details that people see, and how they are told."""


def show(machine: Mapping[str, Any], capture: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Print machine, capture and results."""
    console = Console()
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{machine['system']} {machine['kernel']}, load {machine['load_1min']} before",
        highlight=False,
    )
    if capture:
        console.print(
            f"{capture['packets']:,} packets, {capture['flows']:,} flows, {capture['bytes']:,} bytes: "
            f""
            f"{capture['files']} captures × {capture['passes']}, expanded beforehand",
            highlight=False,
        )
    console.print(_table(results))
    for result in results:
        if besides := _besides(result):
            console.print(f"{result.name}: {besides}", highlight=False)


def _table(results: Sequence[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("stage", no_wrap=True)
    for title in ("measured", "by CPU", "spread", "peer", "times"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.name,
            f"{amount(result.value)}{_SHORT_UNITS.get(result.unit, ' ' + result.unit)}",
            amount(result.cpu_value),
            _spread(result),
            f"{result.peer} {amount(result.peer_value)}" if result.peer else "",
            f"{result.ratio:.1f}" if result.ratio else "",
        )
    return table


def _spread(result: Result) -> str:
    """Return how far the slowest and fastest repeat are from the value."""
    if result.spread is None:
        return ""
    least, most = (value / result.value - 1 for value in result.spread)
    return f"{least:+.0%} {most:+.0%}"


def _besides(result: Result) -> str:
    out = []
    for name, words in _SHOWN.items():
        value = result.details.get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        if value is not None:
            out.append(words.format(value if not isinstance(value, bool) else ("no", "yes")[value]))
    return "; ".join(out)


def amount(value: float | None) -> str:
    """Return a number in three digits with a unit's prefix; empty for None."""
    if value is None:
        return ""
    for factor, prefix in _UNITS:
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.4g}"
