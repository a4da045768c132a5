"""``flowgauge record``: topics into Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options
from flowgauge.commands.tail import Start


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the recording; made if need be.")
    ],
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "--topics", metavar="NAMES", help="Topics, with commas between; * is anything (record.topics)."
        ),
    ] = None,
    roll_rows: Annotated[
        int | None,
        typer.Option("--roll-rows", help="Rows of a partition that make files (record.roll_rows)."),
    ] = None,
    roll_s: Annotated[
        float | None, typer.Option("--roll-s", help="Seconds that make files (record.roll_s).")
    ] = None,
    roll_mb: Annotated[
        int | None, typer.Option("--roll-mb", help="MiB in memory that make files (record.roll_mb).")
    ] = None,
    start: Annotated[
        Start, typer.Option("--from", help="Where a topic begins of which nothing is recorded yet.")
    ] = Start.BEGINNING,
    follow: Annotated[
        bool, typer.Option(help="Wait for more messages, or end where the topics end now.")
    ] = True,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Record feature rows, predictions, labels and telemetry as Parquet, by topic, date, probe and service.

    A restart goes on after the last file, without loss or doubles. Files appear whole; Ctrl-C and SIGTERM write
    what is in memory first.
    """
    import signal

    from flowgauge.framing import start_framing
    from flowgauge.interrupt import EXIT_BASE, stopping
    from flowgauge.recording.run import STAGE, run
    from flowgauge.settings import load
    from flowgauge.workers import log_to_stderr, show_counters

    flags = {
        "bus.bootstrap": bus,
        "record.topics": [name for given in topics for name in given.split(",")] if topics else None,
        "record.roll_rows": roll_rows,
        "record.roll_s": roll_s,
        "record.roll_mb": roll_mb,
    }
    effective = load(config, flags, settings or ())
    start_framing(effective)
    log_to_stderr()
    with stopping() as stop:
        totals = run(effective, output, start is Start.BEGINNING, follow, stop)
    counters = {
        "rows_in": totals.items_in,
        "rows_written": totals.items_out,
        "octets_written": totals.output_bytes,
    }
    show_counters(STAGE, {**counters, **totals.counters}, as_json)
    return 0 if stop.exit_code == EXIT_BASE + signal.SIGTERM else stop.exit_code
