"""Captures to a file or a table of flow records: ``flowgauge flows``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from flowgauge.largest import LargestFlows
from flowgauge.progress import progress
from flowgauge.settings import Effective
from flowgauge.writers import open_writer
from producers.config import BusSettings
from schemas.errors import SettingsError
from schemas.features import FeatureBatch
from streams.codegen import resolve
from streams.config import StreamsSettings
from streams.offline import OfflineSummary, run_offline


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
            names = resolve(settings.representations, settings.feature_files)[0].names
            on_batch = stack.enter_context(open_writer(output, names)).write
        summary = run_offline(
            captures,
            settings,
            partitions=effective.get("bus", BusSettings).partitions,
            probe=probe,
            on_batch=on_batch,
            on_progress=stack.enter_context(progress("read", plain=False)),
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
    for found in settings.representations:
        if found.name == representation:
            return settings.model_copy(update={"representations": (found,)})
    names = ", ".join(r.name for r in settings.representations)
    raise SettingsError(f"--representation {representation}: there is {names}")


def _print(summary: OfflineSummary, largest: LargestFlows, output: Path | None) -> None:
    from rich.console import Console

    console = Console()
    if output is None and summary.flows:
        console.print(largest.table(summary.flows))
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.skipped.items()))
    console.print(
        f"{summary.read} packets read, {summary.accepted} accepted, {sum(summary.skipped.values())} skipped"
        + (f" ({skipped})" if skipped else ""),
        highlight=False,
    )
    rows = sum(summary.rows.values())
    written = f", {rows} rows in {output}" if output else ""
    console.print(f"{summary.flows} flows{written}, {summary.duration_s:.2f} s", highlight=False)
