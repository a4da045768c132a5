"""``flowgauge replay``: captures into the bus."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flowgauge import options


class Rebase(StrEnum):
    """What becomes of the capture's times."""

    NOW = "now"
    KEEP = "keep"


class Payloads(StrEnum):
    """Whose payloads are published."""

    OFF = "off"
    FIRST = "first"
    SAMPLE = "sample"


def command(
    captures: Annotated[
        list[str],
        typer.Argument(
            metavar="CAPTURE…",
            help="pcap or pcapng, also .gz and .zst; - is stdin; NAME=FILE gives a file to the probe NAME.",
        ),
    ],
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", metavar="NAME", help="Name of the probe; repeat it to name each capture's own."
        ),
    ] = None,
    speed: Annotated[
        str, typer.Option(metavar="1|N|max", help="Times as fast as captured, or max.", show_default=True)
    ] = "1",
    rebase: Annotated[
        Rebase | None,
        typer.Option(help="Move the times so that they begin now, or keep them (replay.rebase)."),
    ] = None,
    loop: Annotated[int, typer.Option(min=1, metavar="N", help="Replay everything N times.")] = 1,
    labels: Annotated[
        str | None, typer.Option(metavar="FILE", help="CSV of true classes, published as the flows end.")
    ] = None,
    payloads: Annotated[
        Payloads | None,
        typer.Option(
            help="Publish first octets of packets too: the first of each flow, or a sample (payloads.mode)."
        ),
    ] = None,
    bus: options.Bus = None,
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> int:
    """Replay captures into the bus, as one probe or several.

    Shows how far it is and sums up what was read, sent and acknowledged. Ctrl-C stops it in order: what was
    taken in is sent and the end is marked.
    """
    from flowgauge.framing import start_framing
    from flowgauge.replaying import run
    from flowgauge.settings import load
    from producers.pacing import parse_speed
    from producers.probes import parse_probes

    flags = {
        "bus.bootstrap": bus,
        "replay.rebase": rebase.value if rebase else None,
        "payloads.mode": payloads.value if payloads else None,
    }
    effective = load(config, flags, settings or ())
    start_framing(effective)
    return run(effective, parse_probes(captures, probe or ()), parse_speed(speed), loop, labels, as_json)
