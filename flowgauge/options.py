"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings file; else FLOWGAUGE_CONFIG, else ./flowgauge.toml."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting by its dotted key, as streams.idle_timeout_s=30."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a program can read.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Bus = Annotated[
    str | None, typer.Option("--bus", metavar="HOST:PORT", help="Kafka bootstrap servers (bus.bootstrap).")
]
WithFlows = Annotated[
    bool,
    typer.Option(
        "--with-flows", help="Be the flows worker too: packets in, and no hop over the bus between."
    ),
]
Captures = Annotated[
    list[str],
    typer.Argument(metavar="CAPTURE…", help="pcap or pcapng files, also .gz and .zst; - is stdin."),
]
