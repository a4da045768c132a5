"""``flowgauge spool``: what waits on disk for the bus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowgauge import options

app = typer.Typer(no_args_is_help=True, help="What a probe's queue on disk holds.")


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The queue's folder (spool.path).")],
    as_json: options.Json = False,
) -> int:
    """Show the segments of a queue on disk, while a probe uses it or not; nothing is changed.

    Exit code 1 means that a segment is damaged, or of another version.
    """
    from flowgauge.spooled import show_spool

    return show_spool(folder, as_json)
