"""``flowgauge cost``: what features cost, on captures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options


def command(
    captures: options.Captures,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="LIST",
            help="Names, comma-separated, or all. Default: the representation's.",
        ),
    ] = None,
    representation: Annotated[
        str,
        typer.Option(
            "--representation", "-r", help="When rows are made: window, early, flow or a configured name."
        ),
    ] = "window",
    repeats: Annotated[
        int, typer.Option(min=3, max=10_000, metavar="N", help="How often each is timed.")
    ] = 20,
    packets: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most packets used of the captures; they stay in memory.")
    ] = 1 << 18,
    link_gbps: Annotated[
        float, typer.Option(min=1e-6, metavar="GBPS", help="Rate of the link that storage is told for.")
    ] = 10.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write cost.json, cost.md, cost.svg and cost.png there."
        ),
    ] = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Measure what each feature costs: CPU a packet, state a flow, bytes a record, storage an hour.

    Each is priced alone and in the company of the others, by timing kernels that differ in it alone in turns. A
    kernel for each takes some seconds to compile, the first time; that is not in the prices. Nothing is sent:
    what encoding and the broker take is not in them either.
    """
    from flowgauge.feature_costs import run
    from flowgauge.settings import load

    effective = load(config, {}, settings or ())
    return run(effective, captures, features, representation, repeats, packets, link_gbps, output, as_json)
