"""``flowgauge labels``: a labels file onto the bus."""

from __future__ import annotations

from typing import Annotated

import typer

from flowgauge import options


def command(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV with source_address, destination_address, source_port, destination_port, protocol, "
            "start_ns, end_ns, label.",
        ),
    ],
    probe: Annotated[str, typer.Option(metavar="NAME", help="Probe that saw the flows; part of their ids.")],
    offset_ns: Annotated[
        int, typer.Option(metavar="N", help="Added to the file's times, in ns, as a rebased replay did.")
    ] = 0,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Publish the true classes of flows, so that online models learn from them.

    A row names a flow by its five-tuple and the exact time of its first packet. A file with a bad row publishes
    nothing; the error names the line.
    """
    import json

    from flowgauge.framing import start_framing
    from flowgauge.interrupt import stopping
    from flowgauge.publishing import fits, publish, table_records
    from flowgauge.settings import load
    from producers.config import BusSettings
    from producers.labels import read_labels
    from producers.probes import parse_probes
    from schemas.errors import SettingsError

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    start_framing(effective)
    parse_probes(["-"], [probe])
    table = read_labels(file)
    if not fits(table, offset_ns):
        raise SettingsError(f"--offset-ns {offset_ns}: moves a flow of {file} out of time")
    with stopping() as stop:
        counts = publish(
            table_records(table, probe, offset_ns), effective.get("bus", BusSettings), stop.event.is_set
        )
    if as_json:
        print(json.dumps({"file": file, "probe": probe, "rows": table.rows, **counts}))
    else:
        print(f"{file}: {counts['labels_published']} of {table.rows} labels published for probe {probe}")
    return stop.exit_code
