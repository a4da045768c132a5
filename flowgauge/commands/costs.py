"""``flowgauge costs``: what the whole pipeline does and costs, live."""

from __future__ import annotations

from typing import Annotated

import typer

from flowgauge import options


def command(
    follow: Annotated[
        bool, typer.Option("--follow/--once", help="Go on, or tell how things stand and end.")
    ] = True,
    window: Annotated[
        str, typer.Option(metavar="SECONDS", help="What rates look back on, as 10s or 1m.")
    ] = "10s",
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.JsonLines = False,
) -> int:
    """Show every stage of every process: rates, drops, CPU, state, latency and lag, and the hop that loses or lags.

    Subscribes to telemetry.cost, looking back ten minutes. On a terminal the table is drawn anew each second;
    elsewhere a line is printed each window. With --once the exit code is 1 where something is lost or behind.
    """
    from flowgauge.costs_watch import run
    from flowgauge.framing import start_framing
    from flowgauge.settings import load

    effective = load(config, {"bus.bootstrap": bus}, settings or ())
    start_framing(effective)
    return run(effective, window, follow, as_json)
