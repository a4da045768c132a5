"""Captures to a file or a table of flow records: ``flowgauge flows``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from flowgauge.largest import LargestFlows
from flowgauge.progress import progress
from flowgauge.records import FIELDS, SERVICE_FIELDS
from flowgauge.settings import Effective
from flowgauge.wanted import wanted_packets
from flowgauge.writers import open_writer
from producers.config import BusSettings
from producers.privacy.config import PrivacySettings
from producers.privacy.privacy import open_privacy
from schemas.errors import SettingsError
from schemas.features import FeatureBatch
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.offline import OfflineSummary, run_offline

if TYPE_CHECKING:
    from rich.console import Console

_RULES_SHOWN = 10


def run(
    effective: Effective,
    captures: Sequence[str],
    probe: str,
    representation: str,
    output: Path | None,
    top: int,
    as_json: bool,
) -> int:
    """Read the captures, write the rows of one representation and print what ``flowgauge flows`` prints."""
    settings = only(effective.get("streams", StreamsSettings), representation)
    largest = LargestFlows(top)
    with ExitStack() as stack:
        on_batch: Callable[[FeatureBatch], None] = largest.add
        if output is not None:
            names = resolve(settings.computed, settings.feature_files)[0].names
            fields = {**FIELDS, **SERVICE_FIELDS} if settings.services else FIELDS
            on_batch = stack.enter_context(open_writer(output, names, fields)).write
        summary = run_offline(
            captures,
            settings,
            partitions=effective.get("bus", BusSettings).partitions,
            probe=probe,
            on_batch=on_batch,
            on_progress=stack.enter_context(progress("read", plain=False)),
            privacy=open_privacy(effective.get("privacy", PrivacySettings)),
            selection=wanted_packets(effective),
        )
    for warning in summary.warnings:
        print(f"flowgauge: warning: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps({**summary.as_dict(), "output": str(output) if output else None}))
    else:
        _print(summary, largest, output)
    return 0


def only(settings: StreamsSettings, representation: str) -> StreamsSettings:
    """Return the settings with just one representation, so that nothing nobody asked for is computed.

    Raises:
        SettingsError: there is none of that name.
    """
    for found in settings.computed:
        if found.name == representation:
            number = found.service_number
            services = tuple(
                service if at == number else service.model_copy(update={"collect": ()})
                for at, service in enumerate(settings.services, 1)
            )
            chosen = () if number else (found,)
            return settings.model_copy(update={"representations": chosen, "services": services})
    names = ", ".join(r.name for r in settings.computed)
    raise SettingsError(f"--representation {representation}: there is {names}")


def _print(summary: OfflineSummary, largest: LargestFlows, output: Path | None) -> None:
    from rich.console import Console

    console = Console()
    if output is None and summary.flows:
        console.print(largest.table(summary.flows))
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.skipped.items()))
    console.print(
        f"{summary.read} packets read, {summary.accepted} accepted, {sum(summary.skipped.values())} skipped"
        + (f" ({skipped})" if skipped else "")
        + (f", {summary.left_out} left out, behind the first of their flows" if summary.left_out else ""),
        highlight=False,
    )
    rows = sum(summary.rows.values())
    written = f", {rows} rows in {output}" if output else ""
    console.print(f"{summary.flows} flows{written}, {summary.duration_s:.2f} s", highlight=False)
    if summary.services:
        _print_services(summary, console)


def _print_services(summary: OfflineSummary, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title="Services", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("service")
    for what in ("flows", "packets", "octets"):
        table.add_column(what, justify="right")
    for name, counted in summary.services.items():
        table.add_row(name, *(str(counted[what]) for what in ("flows", "packets", "octets")))
    console.print(table)
    for rule in summary.rules_without_match[:_RULES_SHOWN]:
        console.print(f"matched nothing: {rule}", highlight=False)
    more = len(summary.rules_without_match) - _RULES_SHOWN
    if more > 0:
        console.print(f"and {more} rules more matched nothing", highlight=False)
