"""``flowgauge flows``: flow records of captures, without a bus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: options.Captures,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the rows to a .parquet, .csv or .jsonl file."
        ),
    ] = None,
    representation: Annotated[
        str,
        typer.Option("--representation", "-r", help="Which rows: flow, early, window or a configured name."),
    ] = "flow",
    probe: Annotated[str, typer.Option(help="Name of the probe, part of the flow ids.")] = "offline",
    top: Annotated[int, typer.Option(min=1, max=1000, help="Without -o: how many flows to show.")] = 20,
    idle_timeout_s: Annotated[
        float | None, typer.Option("--idle-timeout", metavar="SECONDS", help="streams.idle_timeout_s")
    ] = None,
    active_timeout_s: Annotated[
        float | None, typer.Option("--active-timeout", metavar="SECONDS", help="streams.active_timeout_s")
    ] = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Read captures and make flow records of them: the same that the flows agent makes, without a bus.

    Without -o the largest flows are shown. --json prints a summary: packets read, accepted and skipped by
    reason, flows, rows.
    """
    from flowgauge.offline import run
    from flowgauge.settings import load

    flags = {"streams.idle_timeout_s": idle_timeout_s, "streams.active_timeout_s": active_timeout_s}
    effective = load(config, flags, settings or ())
    return run(effective, captures, probe, representation, output, top, as_json)
