"""``flowgauge label``: flows of captures labelled with nDPI, into a file or onto the bus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: Annotated[
        list[str],
        typer.Argument(metavar="CAPTURE…", help="pcap or pcapng files, also .gz and .zst."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write a labels file (CSV)."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Publish the labels instead, for the flows of this probe."),
    ] = None,
    guesses: Annotated[
        bool,
        typer.Option("--guesses", help="Also flows that nDPI knows by port or address alone, marked so."),
    ] = False,
    dissections: Annotated[
        int, typer.Option(min=1, max=255, metavar="N", help="Packets of a flow that nDPI looks into.")
    ] = 20,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Label the flows of captures with nDPI (through NFStream), for models to learn from.

    The flows are those of `flowgauge flows`, with the same five-tuples and starts, so that the labels fit their
    ids. What nDPI does not know is left out and counted. --probe publishes on the labels topic, with times as
    captured: for captures that are replayed with --rebase keep.
    """
    from flowgauge.framing import start_framing
    from flowgauge.label_run import run
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    if probe is not None:
        start_framing(effective)
    return run(effective, captures, output, probe, bus is not None, guesses, dissections, as_json)
